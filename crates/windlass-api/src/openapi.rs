//! The OpenAPI 3.1 document, made from [`ROUTES`] and the schemas of the types.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::problem::{self, Problem};
use crate::route::{Answer, Method, ROUTES, Route, SchemaOf};
use crate::{BASE, IDEMPOTENCY_KEY};

/// The document, for a program of `version`.
#[must_use]
pub fn document(version: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let operation = operation(route, &mut generator, &problem);
        let path = paths.entry(format!("{BASE}{}", route.path)).or_insert_with(|| json!({}));
        path[route.method.as_str()] = operation;
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Windlass",
            "version": version,
            "description": "Jobs that bring data to where it belongs. Errors are problem documents (RFC 9457) with a \
                stable `code`. See `docs/api.md`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }, { "cookie": [] }, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "cookie": { "type": "apiKey", "in": "cookie", "name": "windlass_token" },
            },
        },
    })
}

fn operation(route: &Route, generator: &mut SchemaGenerator, problem: &Schema) -> Value {
    let mut parameters: Vec<Value> = route
        .parameters()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    for members in [route.query, route.wait].into_iter().flatten() {
        parameters.extend(query_parameters(members, generator));
    }
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.summary,
        "description": match route.role {
            Some(role) => format!("Needs the role {}.", role.as_str()),
            None => "Needs no role.".to_owned(),
        },
    });
    match route.answer {
        Answer::Events(_) => parameters.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": { "type": "string" },
            "description": "The last id that was seen; the stream goes on after it.",
        })),
        Answer::Json(_) | Answer::Any if route.method == Method::Post && route.body.is_some() => {
            parameters.push(json!({
                "name": IDEMPOTENCY_KEY, "in": "header", "schema": { "type": "string", "maxLength": 200 },
                "description": "The same key twice changes once and answers the same.",
            }));
        }
        Answer::Json(_) | Answer::Any => {}
    }
    if let Some(body) = route.body {
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": body(generator) } },
        });
    }
    if !route.media.is_empty() {
        let bytes = json!({ "schema": { "type": "string", "format": "binary" } });
        let content: Map<String, Value> =
            route.media.iter().map(|media| ((*media).to_owned(), bytes.clone())).collect();
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    let content = match route.answer {
        Answer::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Answer::Events(schema) => json!({ "text/event-stream": { "schema": schema(generator) } }),
        Answer::Any => json!({ "application/json": { "schema": {} } }),
    };
    let mut responses = Map::new();
    responses.insert(route.status.to_string(), json!({ "description": "Done", "content": content }));
    responses.insert(
        "default".to_owned(),
        json!({ "description": "A problem", "content": { problem::MEDIA_TYPE: { "schema": problem } } }),
    );
    operation["responses"] = Value::Object(responses);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    operation
}

/// The members of a query type as parameters.
fn query_parameters(members: SchemaOf, generator: &mut SchemaGenerator) -> Vec<Value> {
    let schema = members(generator);
    // Query types are named: the schema is a reference to their definition.
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next()).map(str::to_owned);
    let definition = match name.and_then(|name| generator.definitions().get(&name).cloned()) {
        Some(definition) => definition,
        None => schema.to_value(),
    };
    let Some(properties) = definition.get("properties").and_then(Value::as_object) else { return Vec::new() };
    properties
        .iter()
        .map(|(name, schema)| {
            let mut schema = schema.clone();
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": description })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(path)) = members.get("$ref") {
                    found.insert(path.clone());
                }
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(list) => list.iter().for_each(|element| references(element, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_in_the_document_and_every_reference_leads_somewhere() {
        let document = document("1.2.3");
        assert_eq!(document["info"]["version"], "1.2.3");
        let mut ids = BTreeSet::new();
        for route in ROUTES {
            let operation = &document["paths"][format!("{BASE}{}", route.path)][route.method.as_str()];
            assert_eq!(operation["operationId"], route.id);
            assert!(ids.insert(route.id), "{} twice", route.id);
            assert!(operation["responses"]["default"]["content"][problem::MEDIA_TYPE].is_object());
            assert!(operation["responses"][route.status.to_string()].is_object());
            let named = operation["parameters"].as_array().cloned().unwrap_or_default();
            for parameter in route.parameters() {
                assert!(named.iter().any(|one| one["name"] == parameter && one["in"] == "path"));
            }
        }
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 30, "{found:?}");
        for path in found {
            let pointer = path.strip_prefix('#').expect("a reference into the document");
            assert!(document.pointer(pointer).is_some(), "{path}");
        }
        let jobs = document["paths"]["/api/v1/jobs"]["get"]["parameters"].as_array().unwrap();
        assert!(jobs.iter().any(|one| one["name"] == "cursor" && one["in"] == "query"));
    }
}
