//! Networks, subnets, security groups, routers, ports, floating addresses.

use serde_json::{Value, json};
use windlass_openstack::{Method, Scope, Service::Network};

use crate::walk::Walk;

const RULE: [&str; 9] = [
    "direction",
    "ethertype",
    "protocol",
    "port_range_min",
    "port_range_max",
    "remote_ip_prefix",
    "remote_group_id",
    "description",
    "project_id",
];
const PORT: [&str; 10] = [
    "network_id",
    "fixed_ips",
    "security_groups",
    "port_security_enabled",
    "allowed_address_pairs",
    "description",
    "device_id",
    "device_owner",
    "project_id",
    "status",
];

pub(crate) async fn walk(walk: &mut Walk<'_>) {
    networks(walk).await;
    groups(walk).await;
    routers(walk).await;
    floating(walk).await;
    quotas(walk).await;
}

async fn delete(walk: &mut Walk<'_>, path: &str) {
    walk.call(&Scope::Home, (Network, Method::DELETE, path), Value::Null, ("", &[])).await;
}

async fn networks(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let project = walk.project.clone();
    let fields = [
        "name",
        "description",
        "admin_state_up",
        "mtu",
        "port_security_enabled",
        "router:external",
        "project_id",
        "status",
        "subnets",
    ];
    let body = json!({ "network": { "name": "front", "description": "d", "admin_state_up": true, "mtu": 1400, "project_id": project } });
    let front = walk.make(&home, (Network, "/networks", "FRONT"), body.clone(), ("network", &fields)).await;
    // Names may be there twice.
    let twice = walk.make(&home, (Network, "/networks", "TWICE"), body, ("network", &fields)).await;
    delete(walk, &format!("/networks/{twice}")).await;
    delete(walk, &format!("/networks/{twice}")).await;
    let body = json!({ "network": { "name": "back", "admin_state_up": false, "port_security_enabled": false, "project_id": project } });
    let fields = ["name", "description", "admin_state_up", "port_security_enabled", "router:external"];
    let back = walk.make(&home, (Network, "/networks", "BACK"), body, ("network", &fields)).await;

    let fields = [
        "name",
        "cidr",
        "ip_version",
        "enable_dhcp",
        "gateway_ip",
        "allocation_pools",
        "dns_nameservers",
        "host_routes",
        "ipv6_address_mode",
        "ipv6_ra_mode",
        "network_id",
        "project_id",
        "description",
    ];
    let body = json!({ "subnet": { "name": "front-4", "network_id": front, "project_id": project, "cidr": "10.1.0.0/24", "ip_version": 4,
        "enable_dhcp": true, "gateway_ip": "10.1.0.1", "dns_nameservers": ["9.9.9.9"], "host_routes": [] } });
    let sub = walk.make(&home, (Network, "/subnets", "SUB-FRONT"), body.clone(), ("subnet", &fields)).await;
    walk.call(&home, (Network, Method::POST, "/subnets"), body, ("subnet", &[])).await;
    let body = json!({ "subnet": { "name": "back-4", "network_id": back, "project_id": project, "cidr": "10.2.0.0/24", "ip_version": 4,
        "enable_dhcp": false, "gateway_ip": null, "allocation_pools": [{ "start": "10.2.0.50", "end": "10.2.0.99" }],
        "host_routes": [{ "destination": "10.9.0.0/16", "nexthop": "10.2.0.9" }] } });
    walk.make(&home, (Network, "/subnets", "SUB-BACK"), body, ("subnet", &fields)).await;
    let body = json!({ "subnet": { "name": "back-6", "network_id": back, "project_id": project, "cidr": "fd00:7::/64", "ip_version": 6,
        "enable_dhcp": true, "ipv6_address_mode": "slaac", "ipv6_ra_mode": "slaac" } });
    let six = walk.make(&home, (Network, "/subnets", "SUB-SIX"), body, ("subnet", &fields)).await;
    delete(walk, &format!("/subnets/{six}")).await;
    let body = json!({ "subnet": { "name": "plain", "network_id": back, "project_id": project, "cidr": "10.3.0.0/28", "ip_version": 4 } });
    let plain = walk.make(&home, (Network, "/subnets", "SUB-PLAIN"), body, ("subnet", &fields)).await;
    delete(walk, &format!("/subnets/{plain}")).await;
    walk.list(&home, Network, &format!("/subnets?network_id={back}"), "subnets", &["id", "cidr"]).await;
    walk.list(&home, Network, &format!("/networks?project_id={project}"), "networks", &["id", "name"]).await;
    walk.list(&home, Network, "/networks?router%3Aexternal=true&name=public", "networks", &["name", "router:external"])
        .await;
    walk.kept.extend([("front", front), ("back", back), ("sub", sub)]);
}

async fn groups(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let project = walk.project.clone();
    // Every project has one, from the first look.
    let path = format!("/security-groups?project_id={project}");
    walk.list(&home, Network, &path, "security_groups", &["name", "description"]).await;
    let body = |name: &str| json!({ "security_group": { "name": name, "description": "d", "project_id": project } });
    let web = walk
        .make(
            &home,
            (Network, "/security-groups", "WEB"),
            body("web"),
            ("security_group", &["name", "description", "project_id"]),
        )
        .await;
    let db = walk.make(&home, (Network, "/security-groups", "DB"), body("db"), ("security_group", &["name"])).await;
    walk.call(&home, (Network, Method::POST, "/security-groups"), body("default"), ("security_group", &[])).await;
    let usual = walk
        .list(&home, Network, &format!("/security-group-rules?security_group_id={web}"), "security_group_rules", &RULE)
        .await;
    for rule in &usual {
        let id = rule["id"].as_str().unwrap_or_default().to_owned();
        walk.learn(&id, "USUAL-RULE");
        delete(walk, &format!("/security-group-rules/{id}")).await;
    }
    let rule = |more: Value| {
        let mut rule =
            json!({ "project_id": project, "direction": "ingress", "ethertype": "IPv4", "description": "d" });
        for (name, value) in more.as_object().unwrap() {
            rule[name.as_str()] = value.clone();
        }
        json!({ "security_group_rule": rule })
    };
    let ports = rule(
        json!({ "security_group_id": web, "protocol": "tcp", "port_range_min": 80, "port_range_max": 443, "remote_ip_prefix": "0.0.0.0/0" }),
    );
    walk.make(&home, (Network, "/security-group-rules", "RULE-1"), ports.clone(), ("security_group_rule", &RULE)).await;
    walk.call(&home, (Network, Method::POST, "/security-group-rules"), ports, ("", &[])).await;
    let remote = rule(
        json!({ "security_group_id": db, "protocol": "tcp", "port_range_min": 5432, "port_range_max": 5432, "remote_group_id": web }),
    );
    walk.make(&home, (Network, "/security-group-rules", "RULE-2"), remote, ("security_group_rule", &RULE)).await;
    let itself = rule(json!({ "security_group_id": db, "remote_group_id": db }));
    walk.make(&home, (Network, "/security-group-rules", "RULE-3"), itself, ("security_group_rule", &RULE)).await;
    let out = rule(json!({ "security_group_id": web, "direction": "egress" }));
    walk.make(&home, (Network, "/security-group-rules", "RULE-4"), out, ("security_group_rule", &RULE)).await;
    let icmp = rule(json!({ "security_group_id": web, "protocol": "icmp", "port_range_min": 8, "port_range_max": 0 }));
    walk.make(&home, (Network, "/security-group-rules", "RULE-5"), icmp, ("security_group_rule", &RULE)).await;
    let found = walk
        .call(
            &home,
            (Network, Method::GET, &format!("/security-groups/{web}")),
            Value::Null,
            ("security_group", &["name", "project_id"]),
        )
        .await;
    let count = found["security_group_rules"].as_array().map_or(0, Vec::len);
    walk.note("rules of the group", &count.into());
    walk.kept.extend([("web", web), ("db", db)]);
}

async fn routers(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let project = walk.project.clone();
    let (front, sub, web) = (walk.kept["front"].clone(), walk.kept["sub"].clone(), walk.kept["web"].clone());
    let public = walk.list(&home, Network, "/networks?router%3Aexternal=true&name=public", "networks", &["name"]).await;
    let public = public[0]["id"].as_str().unwrap().to_owned();
    walk.learn(&public, "PUBLIC");
    let body = json!({ "router": { "name": "edge", "description": "d", "project_id": project, "admin_state_up": true,
        "external_gateway_info": { "network_id": public, "enable_snat": true } } });
    let fields = [
        "name",
        "description",
        "admin_state_up",
        "project_id",
        "routes",
        "external_gateway_info/network_id",
        "external_gateway_info/enable_snat",
        "status",
    ];
    let router = walk.make(&home, (Network, "/routers", "ROUTER"), body, ("router", &fields)).await;
    let port = |address: &str| json!({ "port": { "network_id": front, "project_id": project, "description": "d", "fixed_ips": [{ "subnet_id": sub, "ip_address": address }], "security_groups": [] } });
    let inner = walk.make(&home, (Network, "/ports", "INNER"), port("10.1.0.1"), ("port", &PORT)).await;
    walk.call(&home, (Network, Method::POST, "/ports"), port("10.1.0.1"), ("port", &[])).await;
    walk.call(&home, (Network, Method::POST, "/ports"), port("10.77.0.1"), ("port", &[])).await;
    let join = format!("/routers/{router}/add_router_interface");
    walk.call(&home, (Network, Method::PUT, &join), json!({ "port_id": inner }), ("", &["port_id", "subnet_id"])).await;
    walk.call(&home, (Network, Method::PUT, &join), json!({ "port_id": inner }), ("", &[])).await;
    let second = walk.make(&home, (Network, "/ports", "SECOND"), port("10.1.0.2"), ("port", &[])).await;
    walk.call(&home, (Network, Method::PUT, &join), json!({ "port_id": second }), ("", &[])).await;
    delete(walk, &format!("/ports/{second}")).await;
    walk.call(
        &home,
        (Network, Method::GET, &format!("/ports/{inner}")),
        Value::Null,
        ("port", &["device_id", "device_owner", "project_id", "description"]),
    )
    .await;
    walk.list(
        &home,
        Network,
        &format!("/ports?network_id={front}&device_owner=network%3Arouter_interface"),
        "ports",
        &["id", "device_id"],
    )
    .await;
    walk.list(
        &home,
        Network,
        &format!("/ports?device_id={router}"),
        "ports",
        &["device_owner", "network_id", "project_id"],
    )
    .await;
    let routes = json!({ "router": { "routes": [{ "destination": "192.168.0.0/16", "nexthop": "10.1.0.254" }] } });
    for action in ["add_extraroutes", "add_extraroutes", "remove_extraroutes", "remove_extraroutes", "add_extraroutes"]
    {
        walk.call(
            &home,
            (Network, Method::PUT, &format!("/routers/{router}/{action}")),
            routes.clone(),
            ("router", &["routes"]),
        )
        .await;
    }
    delete(walk, &format!("/routers/{router}")).await;
    delete(walk, &format!("/ports/{inner}")).await;
    delete(walk, &format!("/networks/{front}")).await;
    delete(walk, &format!("/subnets/{sub}")).await;
    // A card of a server.
    let pairs = json!([{ "ip_address": "10.1.0.200", "mac_address": "fa:16:3e:00:00:01" }]);
    let body = json!({ "port": { "name": "db", "network_id": front, "project_id": project, "description": "card", "mac_address": "fa:16:3e:aa:bb:cc",
        "fixed_ips": [{ "subnet_id": sub, "ip_address": "10.1.0.10" }], "security_groups": [web], "allowed_address_pairs": pairs } });
    let card = walk.make(&home, (Network, "/ports", "CARD"), body.clone(), ("port", &PORT)).await;
    let mut same = body;
    same["port"]["fixed_ips"] = json!([{ "subnet_id": sub, "ip_address": "10.1.0.11" }]);
    walk.call(&home, (Network, Method::POST, "/ports"), same, ("port", &[])).await;
    delete(walk, &format!("/security-groups/{web}")).await;
    walk.kept.extend([("public", public), ("router", router), ("inner", inner), ("card", card)]);
}

async fn floating(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let project = walk.project.clone();
    let (public, card) = (walk.kept["public"].clone(), walk.kept["card"].clone());
    let fields = ["status", "port_id", "fixed_ip_address", "description", "project_id", "floating_network_id"];
    let body = json!({ "floatingip": { "floating_network_id": public, "project_id": project, "description": "d" } });
    let floating = walk.make(&home, (Network, "/floatingips", "FLOATING"), body, ("floatingip", &fields)).await;
    let path = format!("/floatingips/{floating}");
    let found = walk.look(&home, Network, &path).await.unwrap();
    let address = found["floatingip"]["floating_ip_address"].as_str().unwrap_or_default().to_owned();
    walk.learn(&address, "ADDRESS");
    let again = json!({ "floatingip": { "floating_network_id": public, "project_id": project, "floating_ip_address": address } });
    walk.call(&home, (Network, Method::POST, "/floatingips"), again, ("floatingip", &[])).await;
    let wrong = json!({ "floatingip": { "floating_network_id": public, "project_id": project, "floating_ip_address": "192.0.2.7" } });
    walk.call(&home, (Network, Method::POST, "/floatingips"), wrong, ("floatingip", &[])).await;
    for _ in 0..2 {
        walk.call(
            &home,
            (Network, Method::PUT, &path),
            json!({ "floatingip": { "port_id": card } }),
            ("floatingip", &fields),
        )
        .await;
    }
    walk.list(
        &home,
        Network,
        &format!("/floatingips?port_id={card}"),
        "floatingips",
        &["id", "port_id", "fixed_ip_address"],
    )
    .await;
    walk.list(&home, Network, &format!("/floatingips?floating_ip_address={address}"), "floatingips", &["id"]).await;
    walk.kept.insert("floating", floating);
}

async fn quotas(walk: &mut Walk<'_>) {
    let path = format!("/quotas/{}", walk.project);
    let home = Scope::Home;
    walk.call(
        &home,
        (Network, Method::PUT, &path),
        json!({ "quota": { "network": 2, "security_group": 30 } }),
        ("quota", &["network", "security_group"]),
    )
    .await;
    walk.call(&home, (Network, Method::GET, &path), Value::Null, ("quota", &["network", "security_group"])).await;
    let body = json!({ "network": { "name": "too many", "project_id": walk.project } });
    walk.call(&home, (Network, Method::POST, "/networks"), body, ("network", &[])).await;
    walk.call(&home, (Network, Method::DELETE, &path), Value::Null, ("", &[])).await;
    walk.call(&home, (Network, Method::DELETE, &path), Value::Null, ("", &[])).await;
}

/// Removes what the other parts needed.
pub(crate) async fn leave(walk: &mut Walk<'_>) {
    let home = Scope::Home;
    let kept = walk.kept.clone();
    delete(walk, &format!("/ports/{}", kept["card"])).await;
    let path = format!("/floatingips/{}", kept["floating"]);
    // Its status is that of the lab's own router plug-in.
    walk.call(&home, (Network, Method::GET, &path), Value::Null, ("floatingip", &["port_id", "fixed_ip_address"]))
        .await;
    delete(walk, &path).await;
    delete(walk, &path).await;
    let router = &kept["router"];
    let part = format!("/routers/{router}/remove_router_interface");
    let inner = json!({ "port_id": kept["inner"] });
    // Routes by way of it are in the way.
    walk.call(&home, (Network, Method::PUT, &part), inner.clone(), ("", &[])).await;
    let routes = json!({ "router": { "routes": [{ "destination": "192.168.0.0/16", "nexthop": "10.1.0.254" }] } });
    walk.call(
        &home,
        (Network, Method::PUT, &format!("/routers/{router}/remove_extraroutes")),
        routes,
        ("router", &["routes"]),
    )
    .await;
    walk.call(&home, (Network, Method::PUT, &part), inner.clone(), ("", &[])).await;
    walk.call(&home, (Network, Method::PUT, &part), inner, ("", &[])).await;
    walk.call(&home, (Network, Method::GET, &format!("/ports/{}", kept["inner"])), Value::Null, ("", &[])).await;
    for _ in 0..2 {
        delete(walk, &format!("/routers/{router}")).await;
    }
    for name in ["front", "back"] {
        delete(walk, &format!("/networks/{}", kept[name])).await;
    }
    walk.call(&home, (Network, Method::GET, &format!("/subnets/{}", kept["sub"])), Value::Null, ("", &[])).await;
    for name in ["web", "db", "web"] {
        delete(walk, &format!("/security-groups/{}", kept[name])).await;
    }
    let path = format!("/security-groups?project_id={}", walk.project);
    let left = walk.list(&home, Network, &path, "security_groups", &["name"]).await;
    for group in &left {
        let id = group["id"].as_str().unwrap_or_default().to_owned();
        walk.learn(&id, "DEFAULT");
        delete(walk, &format!("/security-groups/{id}")).await;
    }
}
