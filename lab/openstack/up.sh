#!/bin/bash
# Starts two small OpenStack sites, a and b, on this machine; see README.md.
# May be run again: what runs is left alone, what died is started.
set -euo pipefail
. "$(dirname "$0")/lab.sh"

PACKAGES="python3-keystone python3-glance python3-placement python3-neutron
python3-cinder python3-nova python3-openstackclient python3-pymysql
mariadb-server-core mariadb-client rabbitmq-server uwsgi-core
uwsgi-plugin-python3 libeatmydata1 curl"

# ---------------------------------------------------------------- packages
install_packages() {
    local missing="" p
    for p in $PACKAGES; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] ||
            missing="$missing $p"
    done
    [ -n "$missing" ] || return 0
    [ -z "${LAB_SKIP_APT:-}" ] || die "packages missing:$missing"
    [ "$(id -u)" = 0 ] || die "run once as root to install:$missing"
    say "installing:$missing"
    # Only libraries and two servers are wanted; nothing may start by itself.
    local guard=/usr/sbin/policy-rc.d made=""
    if [ ! -e $guard ]; then
        printf '#!/bin/sh\nexit 101\n' > $guard; chmod 755 $guard; made=1
    fi
    local log=$D/log/apt.log rc=0 opts="-o DPkg::Lock::Timeout=900 -o Acquire::Retries=3"
    export DEBIAN_FRONTEND=noninteractive
    { nice apt-get $opts install -y --no-install-recommends \
          -o Dpkg::Options::=--force-confold $missing ||
      { nice apt-get $opts update &&
        nice apt-get $opts install -y --no-install-recommends \
          -o Dpkg::Options::=--force-confold $missing; } ; } >"$log" 2>&1 || rc=$?
    [ -z "$made" ] || rm -f $guard
    [ $rc = 0 ] || { tail -20 "$log" >&2; die "apt-get, see $log"; }
}

# ------------------------------------------------------ database and broker
start_db() {
    local as=""
    [ "$(id -u)" != 0 ] || as=--user=root
    if [ ! -d "$D/mysql/mysql" ]; then
        rm -rf "$D/mysql"
        LD_PRELOAD=libeatmydata.so mariadb-install-db --no-defaults $as --datadir="$D/mysql" \
            --auth-root-authentication-method=normal --skip-test-db \
            >"$D/log/mysql-install.log" 2>&1 || die "mariadb-install-db, see $D/log"
    fi
    # durability is traded for speed on purpose: this is a lab (creating some
    # 900 tables costs thousands of fsyncs otherwise)
    daemon mariadb "$D/log/mariadb.log" "$D/run/mariadb.pid" \
        env LD_PRELOAD=libeatmydata.so mariadbd --no-defaults $as --datadir="$D/mysql" --socket="$DB_SOCK" \
        --bind-address=127.0.0.1 --port=$DB_PORT --skip-name-resolve \
        --skip-log-bin --performance-schema=OFF --max-connections=600 \
        --character-set-server=utf8mb3 --collation-server=utf8mb3_general_ci \
        --innodb-buffer-pool-size=256M --innodb-log-file-size=64M \
        --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 --innodb-file-per-table=0 \
        --innodb-flush-method=nosync --sync-frm=0 --pid-file="$D/run/mariadbd.own.pid"
    local end=$((SECONDS + 180))
    until sql -e 'select 1' >/dev/null 2>&1; do
        alive "$D/run/mariadb.pid" || die "mariadb died, see $D/log/mariadb.log"
        [ $SECONDS -lt $end ] || die "mariadb did not answer"
        sleep 0.3
    done
    sql -e "CREATE USER IF NOT EXISTS lab@'127.0.0.1' IDENTIFIED BY '$SECRET';
            GRANT ALL ON *.* TO lab@'127.0.0.1'"
}

start_broker() {
    local R=$D/rabbit s
    mkdir -p "$R/mnesia"
    [ -s "$R/.erlang.cookie" ] || {
        head -c 15 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$R/.erlang.cookie"
        chmod 400 "$R/.erlang.cookie"; }
    cat > "$R/rabbitmq.conf" <<EOF
listeners.tcp.1 = 127.0.0.1:$AMQP_PORT
loopback_users = none
load_definitions = $R/definitions.json
log.file = false
log.console = true
log.console.level = warning
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 50MB
EOF
    echo '[].' > "$R/enabled_plugins"
    local vhosts="" perms=""
    for s in a b; do
        vhosts="$vhosts,{\"name\":\"site-$s\"}"
        perms="$perms,{\"user\":\"lab\",\"vhost\":\"site-$s\",\"configure\":\".*\",\"write\":\".*\",\"read\":\".*\"}"
    done
    cat > "$R/definitions.json" <<EOF
{"users":[{"name":"lab","password":"$SECRET","tags":"administrator"}],
 "vhosts":[${vhosts#,}],"permissions":[${perms#,}]}
EOF
    daemon epmd "$D/log/epmd.log" "$D/run/epmd.pid" \
        epmd -port $EPMD_PORT -address 127.0.0.1
    alive "$D/run/rabbit.pid" || daemon rabbitmq "$D/log/rabbit.log" "$D/run/rabbit.pid" \
        env HOME="$R" ERL_EPMD_PORT=$EPMD_PORT ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_NODENAME=windlass-lab@localhost RABBITMQ_DIST_PORT=$DIST_PORT \
        RABBITMQ_MNESIA_BASE="$R/mnesia" RABBITMQ_LOG_BASE="$D/log" \
        RABBITMQ_CONFIG_FILE="$R/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE="$R/none" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$R/enabled_plugins" \
        RABBITMQ_PID_FILE="$D/run/rabbit.own.pid" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}' \
        /usr/lib/rabbitmq/bin/rabbitmq-server
}

wait_broker() {
    local end=$((SECONDS + 240))
    until (exec 3<>/dev/tcp/127.0.0.1/$AMQP_PORT) 2>/dev/null; do
        alive "$D/run/rabbit.pid" || die "rabbitmq died, see $D/log/rabbit.log"
        [ $SECONDS -lt $end ] || die "rabbitmq did not answer"
        sleep 0.5
    done
}

# ------------------------------------------------------------ configuration
authtoken() {
    cat <<EOF
[$1]
auth_type = password
auth_url = $AUTH
username = service
password = $SECRET
project_name = service
user_domain_id = default
project_domain_id = default
region_name = $REGION
valid_interfaces = public
EOF
}
database() { echo "connection = mysql+pymysql://lab:$SECRET@127.0.0.1:$DB_PORT/$1?charset=utf8"; }
pool() { printf 'max_pool_size = 5\nmax_overflow = 20\n'; }
common() {   # the tail every service shares
    echo; authtoken keystone_authtoken
    cat <<EOF
www_authenticate_uri = $AUTH
service_token_roles = service
service_token_roles_required = true
memcache_use_advanced_pool = false

[oslo_concurrency]
lock_path = $S/lock

[oslo_messaging_notifications]
driver = noop
EOF
}

write_conf() {
    local E=$S/etc n
    local amqp="rabbit://lab:$SECRET@127.0.0.1:$AMQP_PORT/$VHOST"
    mkdir -p "$E" "$S"/{log,run,lock,volumes,images,state,fernet,credential}

    # keys for tokens and credentials: "0" is the staged key, "1" the primary
    for n in fernet/0 fernet/1 credential/0 credential/1; do
        [ -s "$S/$n" ] || (umask 077
            head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' > "$S/$n")
    done
    chmod 700 "$S/fernet" "$S/credential"

    cat > "$E/keystone.conf" <<EOF
[DEFAULT]
use_stderr = true
public_endpoint = $AUTH
[database]
$(database keystone_$SITE)
$(pool)
[token]
provider = fernet
expiration = $TOKEN_TTL
[fernet_tokens]
key_repository = $S/fernet
[fernet_receipts]
key_repository = $S/fernet
[credential]
key_repository = $S/credential
[identity]
password_hash_rounds = 4
[cache]
# one process, so a cache inside it is coherent
enabled = true
backend = oslo_cache.dict
expiration_time = 600
EOF

    { cat <<EOF
[placement_database]
$(database placement_$SITE)
$(pool)
[api]
auth_strategy = keystone
EOF
      common; } > "$E/placement.conf"

    { cat <<EOF
[DEFAULT]
bind_host = 127.0.0.1
bind_port = $P_GLANCE
workers = 0
transport_url = $amqp
use_stderr = true
enabled_backends = disk:file
node_staging_uri = file://$S/state/staging
image_cache_dir = $S/state/image-cache
[database]
$(database glance_$SITE)
$(pool)
[glance_store]
default_backend = disk
[disk]
filesystem_store_datadir = $S/images
[os_glance_staging_store]
filesystem_store_datadir = $S/state/staging
[os_glance_tasks_store]
filesystem_store_datadir = $S/state/tasks
[paste_deploy]
flavor = keystone
config_file = $E/glance-paste.ini
EOF
      common; } > "$E/glance.conf"
    cat > "$E/glance-paste.ini" <<'EOF'
[pipeline:glance-api-keystone]
pipeline = versionnegotiation authtoken context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
EOF

    { cat <<EOF
[DEFAULT]
core_plugin = ml2
service_plugins = windlass_lab.neutron_l3.LabRouterPlugin
bind_host = 127.0.0.1
bind_port = $P_NEUTRON
api_workers = 0
rpc_workers = 1
rpc_state_report_workers = 0
transport_url = $amqp
state_path = $S/state
api_paste_config = $E/neutron-paste.ini
use_stderr = true
enable_traditional_dhcp = false
dhcp_agent_notification = false
notify_nova_on_port_status_changes = true
notify_nova_on_port_data_changes = true
[database]
$(database neutron_$SITE)
$(pool)
[ml2]
type_drivers = local,flat,vlan,vxlan
tenant_network_types = vxlan
mechanism_drivers = labbind
extension_drivers = port_security
[ml2_type_flat]
flat_networks = physnet1
[ml2_type_vlan]
network_vlan_ranges = physnet1:100:999
[ml2_type_vxlan]
vni_ranges = 1:9999
[quotas]
quota_network = 1000
quota_subnet = 1000
quota_port = 5000
quota_router = 200
quota_floatingip = 500
quota_security_group = 500
quota_security_group_rule = 5000
EOF
      authtoken nova; common; } > "$E/neutron.conf"
    cat > "$E/neutron-paste.ini" <<'EOF'
[composite:neutron]
use = egg:Paste#urlmap
/: versions
/v2.0: v2
[pipeline:versions]
pipeline = proxied versionsapp
[pipeline:v2]
pipeline = proxied requestid errors authtoken context extensions v2app
[filter:proxied]
paste.filter_factory = oslo_middleware.http_proxy_to_wsgi:HTTPProxyToWSGI.factory
[filter:requestid]
paste.filter_factory = oslo_middleware:RequestId.factory
[filter:errors]
paste.filter_factory = oslo_middleware:CatchErrors.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = neutron.auth:NeutronKeystoneContext.factory
[filter:extensions]
paste.filter_factory = neutron.api.extensions:plugin_aware_extension_middleware_factory
[app:versionsapp]
paste.app_factory = neutron.pecan_wsgi.app:versions_factory
[app:v2app]
paste.app_factory = neutron.api.v2.router:APIRouter.factory
EOF

    { cat <<EOF
[DEFAULT]
host = storage-$SITE
my_ip = 127.0.0.1
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = $P_CINDER
osapi_volume_workers = 1
transport_url = $amqp
state_path = $S/state
use_stderr = true
enabled_backends = lab
glance_api_servers = http://127.0.0.1:$P_GLANCE
glance_catalog_info =
api_paste_config = $E/cinder-paste.ini
rootwrap_config = /dev/null
report_interval = 5
periodic_interval = 10
quota_volumes = 1000
quota_snapshots = 1000
quota_gigabytes = 100000
[database]
$(database cinder_$SITE)
$(pool)
[lab]
volume_driver = windlass_lab.cinder_dir.DirectoryDriver
volume_backend_name = lab
lab_volume_dir = $S/volumes
EOF
      authtoken nova; authtoken service_user
      echo 'send_service_user_token = true'; common; } > "$E/cinder.conf"
    sed -i '/^glance_catalog_info/d' "$E/cinder.conf"
    cat > "$E/cinder-paste.ini" <<'EOF'
[composite:osapi_volume]
use = call:cinder.api:root_app_factory
/: versions
/v3: v3
[composite:v3]
use = call:cinder.api.middleware.auth:pipeline_factory
keystone = requestid errors limit authtoken context v3app
[pipeline:versions]
pipeline = errors versionsapp
[filter:requestid]
paste.filter_factory = oslo_middleware.request_id:RequestId.factory
[filter:errors]
paste.filter_factory = cinder.api.middleware.fault:FaultWrapper.factory
[filter:limit]
paste.filter_factory = oslo_middleware.sizelimit:RequestBodySizeLimiter.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = cinder.api.middleware.auth:CinderKeystoneContext.factory
[app:v3app]
paste.app_factory = cinder.api.v3.router:APIRouter.factory
[app:versionsapp]
paste.app_factory = cinder.api.versions:Versions.factory
EOF

    { cat <<EOF
[DEFAULT]
host = control-$SITE
my_ip = 127.0.0.1
enabled_apis = osapi_compute
osapi_compute_listen = 127.0.0.1
osapi_compute_listen_port = $P_NOVA
osapi_compute_workers = 1
transport_url = $amqp
state_path = $S/state
use_stderr = true
compute_driver = nova_fake.LabDriver
report_interval = 5
update_resources_interval = 30
sync_power_state_interval = -1
vif_plugging_is_fatal = false
vif_plugging_timeout = 0
reserved_host_memory_mb = 0
reserved_host_disk_mb = 0
initial_cpu_allocation_ratio = 4.0
[wsgi]
api_paste_config = $E/nova-paste.ini
[api_database]
$(database nova_api_$SITE)
$(pool)
[database]
$(database nova_$SITE)
$(pool)
[conductor]
workers = 1
[scheduler]
workers = 1
discover_hosts_in_cells_interval = 5
[quota]
instances = 500
cores = 1000
ram = 2048000
key_pairs = 500
[vnc]
enabled = false
[glance]
endpoint_override = http://127.0.0.1:$P_GLANCE
[compute]
resource_provider_association_refresh = 300
EOF
      authtoken neutron
      authtoken placement
      authtoken cinder; echo "os_region_name = $REGION"; echo "catalog_info = volumev3::publicURL"
      authtoken service_user; echo 'send_service_user_token = true'
      common; } | sed "/^\[cinder\]/,/^\[/{/^region_name/d;/^valid_interfaces/d}" > "$E/nova.conf"
    for n in $(seq "$COMPUTES"); do
        printf '[DEFAULT]\nhost = compute-%s%s\n' "$SITE" "$n" > "$E/nova-compute-$n.conf"
    done
    cat > "$E/nova-paste.ini" <<'EOF'
[composite:osapi_compute]
use = call:nova.api.openstack.urlmap:urlmap_factory
/: versions
/v2.1: v21
[composite:v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = requestid errors limit authtoken context v21app
[pipeline:versions]
pipeline = errors versionsapp
[filter:requestid]
paste.filter_factory = nova.api.compute_req_id:ComputeReqIdMiddleware.factory
[filter:errors]
paste.filter_factory = nova.api.openstack:FaultWrapper.factory
[filter:limit]
paste.filter_factory = oslo_middleware:RequestBodySizeLimiter.factory
[filter:authtoken]
paste.filter_factory = keystonemiddleware.auth_token:filter_factory
[filter:context]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
[app:v21app]
paste.app_factory = nova.api.openstack.compute:APIRouterV21.factory
[app:versionsapp]
paste.app_factory = nova.api.openstack.compute.versions:Versions.factory
EOF
}

# ------------------------------------------------------------------ schemas
schema_key() {
    dpkg-query -W -f '${Package}=${Version}\n' python3-keystone python3-glance \
        python3-placement python3-neutron python3-cinder python3-nova |
        sha256sum | cut -c1-16
}

migrate() {   # migrate NAME command...: one job in the pool
    local name=$1; shift
    nice "$@" >"$D/log/migrate-$name.log" 2>&1 ||
        { tail -5 "$D/log/migrate-$name.log" >&2; return 1; }
}

# Build every schema once, in the databases of the first site, while they are
# empty; then keep a dump.  Any later empty database is filled from the dump.
make_schema() {
    local dump=$1 E=$S/etc
    say "building the database schemas (once per package version)"
    local pids=() p
    { migrate nova-api "${RUN[@]}" nova-manage nova.cmd.manage:main --config-file "$E/nova.conf" api_db sync &&
      migrate nova "${RUN[@]}" nova-manage nova.cmd.manage:main --config-file "$E/nova.conf" db sync --local_cell &&
      migrate placement env OS_PLACEMENT_CONFIG_DIR="$E" placement-manage --config-file "$E/placement.conf" db sync &&
      migrate glance "${RUN[@]}" glance-manage glance.cmd.manage:main --config-file "$E/glance.conf" db_sync
    } & pids+=($!)
    { migrate neutron "${RUN[@]}" neutron-db-manage neutron.db.migration.cli:main --config-file "$E/neutron.conf" upgrade heads &&
      migrate keystone keystone-manage --config-file "$E/keystone.conf" db_sync &&
      migrate cinder "${RUN[@]}" cinder-manage cinder.cmd.manage:main --config-file "$E/cinder.conf" db sync
    } & pids+=($!)
    for p in "${pids[@]}"; do wait "$p" || die "database migration, see $D/log"; done
    # cell0 keeps the servers that could not be placed; it has the cell schema
    mariadb-dump --no-defaults -S "$DB_SOCK" -u root "nova_$SITE" | sql "nova_cell0_$SITE"
    mkdir -p "$CACHE"
    local db
    for db in $DBS; do
        mariadb-dump --no-defaults -S "$DB_SOCK" -u root "${db}_$SITE" > "$dump.$db.part"
        mv "$dump.$db.part" "$dump.$db"
    done
}

fill_databases() {
    local db dump n
    dump=$CACHE/schema-$(schema_key)
    for db in $DBS; do
        sql -e "CREATE DATABASE IF NOT EXISTS ${db}_$SITE"
    done
    [ ! -e "$S/.schema-done" ] || return 0
    for db in $DBS; do     # half-made by an interrupted run: start over
        sql -e "DROP DATABASE ${db}_$SITE; CREATE DATABASE ${db}_$SITE"
    done
    if [ -s "$dump.nova_cell0" ]; then
        for db in $DBS; do sql "${db}_$SITE" < "$dump.$db"; done
    else
        make_schema "$dump"
    fi
    # Nova's two cells, as "nova-manage cell_v2" would write them
    sql "nova_api_$SITE" <<EOF
INSERT INTO cell_mappings (created_at, uuid, name, transport_url, database_connection, disabled) VALUES
 (now(), '00000000-0000-0000-0000-000000000000', 'cell0', 'none:///',
  'mysql+pymysql://lab:$SECRET@127.0.0.1:$DB_PORT/nova_cell0_$SITE?charset=utf8', 0),
 (now(), '11111111-1111-4111-8111-11111111111$N', 'cell1',
  'rabbit://lab:$SECRET@127.0.0.1:$AMQP_PORT/$VHOST',
  'mysql+pymysql://lab:$SECRET@127.0.0.1:$DB_PORT/nova_$SITE?charset=utf8', 0);
EOF
    touch "$S/.schema-done"
}

# ----------------------------------------------------------------- services
svc() {   # svc NAME command...
    local name=$1; shift
    daemon "$name" "$S/log/$name.log" "$S/run/$name.pid" nice -n 5 "$@"
}
wsgi() {  # wsgi NAME PORT module callable [ENV=...]
    local name=$1 port=$2 target=$3; shift 3
    svc "$name" env "$@" uwsgi --plugin python3 --http-socket "127.0.0.1:$port" \
        --module "$target" --master --processes 1 --threads 4 --enable-threads \
        --lazy-apps --need-app --die-on-term --buffer-size 65535 --disable-logging \
        --no-orphans --add-header 'Connection: close'
}
start_identity() {
    if [ ! -e "$S/.bootstrap-done" ]; then
        keystone-manage --config-file "$S/etc/keystone.conf" bootstrap \
            --bootstrap-username admin --bootstrap-password "$SECRET" \
            --bootstrap-project-name admin --bootstrap-role-name admin \
            --bootstrap-service-name keystone --bootstrap-region-id "$REGION" \
            --bootstrap-public-url "$AUTH" --bootstrap-internal-url "$AUTH" \
            --bootstrap-admin-url "$AUTH" >"$S/log/bootstrap.log" 2>&1 ||
            { tail -5 "$S/log/bootstrap.log" >&2; die "keystone-manage bootstrap"; }
        touch "$S/.bootstrap-done"
    fi
    wsgi keystone "$P_KEYSTONE" 'keystone.server.wsgi:initialize_public_application()' \
        OS_KEYSTONE_CONFIG_FILES="$S/etc/keystone.conf"
}
start_rest() {
    local E=$S/etc n
    wsgi placement "$P_PLACEMENT" 'placement.wsgi:init_application()' \
        OS_PLACEMENT_CONFIG_DIR="$E"
    svc glance-api "${RUN[@]}" glance-api glance.cmd.api:main --config-file "$E/glance.conf"
    svc neutron-server "${RUN[@]}" neutron-server neutron.cmd.eventlet.server:main --config-file "$E/neutron.conf"
    svc nova-conductor "${RUN[@]}" nova-conductor nova.cmd.conductor:main --config-file "$E/nova.conf"
    svc nova-scheduler "${RUN[@]}" nova-scheduler nova.cmd.scheduler:main --config-file "$E/nova.conf"
    svc cinder-scheduler "${RUN[@]}" cinder-scheduler cinder.cmd.scheduler:main --config-file "$E/cinder.conf"
    svc cinder-volume env PATH="$HERE/plugins/bin:$PATH" "${RUN[@]}" cinder-volume cinder.cmd.volume:main --config-file "$E/cinder.conf"
    svc cinder-api "${RUN[@]}" cinder-api cinder.cmd.api:main --config-file "$E/cinder.conf"
    svc nova-api "${RUN[@]}" nova-api nova.cmd.api_os_compute:main --config-file "$E/nova.conf"
    for n in $(seq "$COMPUTES"); do
        svc "nova-compute-$n" "${RUN[@]}" nova-compute nova.cmd.compute:main \
            --config-file "$E/nova.conf" --config-file "$E/nova-compute-$n.conf"
    done
}

# -------------------------------------------------------------- credentials
write_clouds() {
    local s
    { echo "clouds:"
      for s in $SITES; do
          site_vars "$s"
          cat <<EOF
  lab-$s:
    region_name: $REGION
    identity_api_version: 3
    auth:
      auth_url: $AUTH
      username: admin
      password: $SECRET
      project_name: admin
      user_domain_id: default
      project_domain_id: default
EOF
          cat > "$D/openrc-$s" <<EOF
export OS_AUTH_URL=$AUTH/v3 OS_IDENTITY_API_VERSION=3
export OS_USERNAME=admin OS_PASSWORD=$SECRET OS_PROJECT_NAME=admin
export OS_USER_DOMAIN_ID=default OS_PROJECT_DOMAIN_ID=default
export OS_REGION_NAME=$REGION OS_VOLUME_API_VERSION=3
EOF
      done; } > "$D/clouds.yaml"
}

# What the tests read; written last, so that whoever finds it finds a lab that is up.
write_lab() {
    local s sep=""
    { printf '{ "sites": {'
      for s in $SITES; do
          site_vars "$s"
          printf '%s\n  "%s": { "auth_url": "%s/v3", "region": "%s", "user": "admin", "project": "admin", "password": "%s",\n         "volumes": "%s", "volume_host": "storage-%s@lab#lab", "image": "lab-tiny", "external": "public" }' \
              "$sep" "$s" "$AUTH" "$REGION" "$SECRET" "$S/volumes" "$s"
          sep=,
      done
      printf '\n} }\n'; } > "$D/lab.json.new"
    mv "$D/lab.json.new" "$D/lab.json"
}

# --------------------------------------------------------------------- main
mkdir -p "$D"/{log,run}
exec 9>"$D/.lock"; flock -w 900 9 || die "another up.sh or down.sh is running"
install_packages
choose_ports
say "database and message broker"
start_broker 9>&-
start_db 9>&-
for s in $SITES; do site_vars "$s"; write_conf; fill_databases; done
write_clouds
for s in $SITES; do site_vars "$s"; say "site $s: identity"; start_identity 9>&-; done
wait_broker
for s in $SITES; do
    site_vars "$s"
    wait_http "$AUTH/v3" 240 keystone "$S/run/keystone.pid" "$S/log/keystone.log"
    "$PY" "$HERE/setup.py" catalog "$SITE" "$REGION" "$SECRET" || die "setup.py catalog"
    say "site $s: services"
    start_rest 9>&-
done
for s in $SITES; do
    site_vars "$s"
    for x in placement:$P_PLACEMENT glance-api:$P_GLANCE neutron-server:$P_NEUTRON \
             cinder-api:$P_CINDER nova-api:$P_NOVA; do
        wait_http "http://127.0.0.1:${x#*:}/" 300 "${x%:*}" "$S/run/${x%:*}.pid" "$S/log/${x%:*}.log"
    done
    "$PY" "$HERE/setup.py" contents "$SITE" "$REGION" "$SECRET" "$COMPUTES" || die "setup.py contents"
    say "site $s: ready"
done
write_lab
say "up; what the tests read is in $D/lab.json"
