//! Some columns and rows of a table, beside all of them picked over by hand.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use windlass_table::query::{Query, query};
use windlass_table::rows::cell;
use windlass_table::scan::{Selection, scan};
use windlass_table::{Layout, TableError, Uniqueness};

use crate::world::{World, data};

type Object = Map<String, Value>;
/// Whether a row is wanted.
type Holds<'a> = Box<dyn Fn(&Object) -> bool + 'a>;

/// All rows of the table as objects, in its order.
async fn all(world: &World, selection: &Selection) -> Vec<Object> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let shared = found.clone();
    let around = world.around("all");
    let scanned = scan(&world.table, selection, &around, move |day, rows, shape| {
        for row in 0..rows.num_rows() {
            let mut object = Object::new();
            object.insert("day".to_owned(), day.to_string().into());
            for (at, field) in shape.schema.fields().iter().enumerate() {
                object.insert(
                    field.name().clone(),
                    cell(rows.column(at), &shape.types[at], row).to_json(&shape.types[at]),
                );
            }
            shared.lock().unwrap().push(object);
        }
        Ok(())
    });
    drop(scanned.await.unwrap());
    std::mem::take(&mut *found.lock().unwrap())
}

async fn ask(world: &World, selection: &Selection, wanted: Query) -> Result<Vec<Object>, TableError> {
    let found = Arc::new(Mutex::new(Vec::new()));
    let shared = found.clone();
    query(&world.table, selection, &wanted, &world.around("ask"), move |rows| {
        for row in 0..rows.num_rows() {
            let mut object = Object::new();
            for (field, array) in rows.schema_ref().fields().iter().zip(rows.columns()) {
                let Some(of) = world_type(field.data_type()) else {
                    return Err(TableError::Invalid(format!("a column of another type: {field}")));
                };
                object.insert(field.name().clone(), cell(array, &of, row).to_json(&of));
            }
            shared.lock().unwrap().push(object);
        }
        Ok(())
    })
    .await?;
    Ok(std::mem::take(&mut *found.lock().unwrap()))
}

fn world_type(of: &arrow_schema::DataType) -> Option<windlass_table::column::ColumnType> {
    use windlass_table::column::ColumnType as Type;
    let types = [
        Type::Bool,
        Type::Int16,
        Type::Int32,
        Type::Int64,
        Type::Float64,
        Type::String,
        Type::Date,
        Type::Timestamp,
        Type::List(Box::new(Type::Int32)),
    ];
    types.into_iter().find(|known| known.arrow() == *of)
}

fn query_of(columns: &[&str], condition: &str, order: &[&str], limit: Option<u64>) -> Query {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Query {
        columns: (!columns.is_empty()).then(|| words(columns)),
        condition: (!condition.is_empty()).then(|| condition.to_owned()),
        order: words(order),
        limit,
    }
}

/// With days that are archived, others in files beside them, and rows that only wait.
async fn world(layout: Layout) -> World {
    let mut world = World::of(&data("sample"), Uniqueness::Day, layout).await;
    world.ingest(0..4).await;
    world.backfill().await.unwrap();
    world.ingest(4..7).await;
    world
}

fn number(row: &Object, name: &str) -> Option<f64> {
    row[name].as_f64()
}

#[tokio::test]
async fn what_is_asked_for_is_what_picking_over_all_rows_gives() {
    for layout in [Layout::CopyOnWrite, Layout::MergeOnRead] {
        let world = world(layout).await;
        for live in [false, true] {
            let selection = Selection { live, ..Selection::default() };
            let rows = all(&world, &selection).await;
            let days: std::collections::BTreeSet<&str> = rows.iter().filter_map(|row| row["day"].as_str()).collect();
            let day = *days.iter().nth(1).unwrap();
            let text = |row: &Object, name: &str| row[name].as_str().map(str::to_owned);
            let cases: [(String, Holds<'_>); 5] = [
                (String::new(), Box::new(|_| true)),
                (
                    "city_id > 5 and status = 'completed'".to_owned(),
                    Box::new(|row| {
                        number(row, "city_id") > Some(5.0) && text(row, "status").as_deref() == Some("completed")
                    }),
                ),
                (
                    format!("day = '{day}' and (fare >= 100 or fare is null)"),
                    Box::new(move |row| row["day"] == day && number(row, "fare").is_none_or(|fare| fare >= 100.0)),
                ),
                ("city_id in (1, 3) or city_id is null".to_owned(), {
                    Box::new(|row| number(row, "city_id").is_none_or(|city| city == 1.0 || city == 3.0))
                }),
                ("city_id < -7".to_owned(), Box::new(|row| number(row, "city_id").is_some_and(|city| city < -7.0))),
            ];
            for (condition, holds) in cases {
                let wanted: Vec<Object> = rows.iter().filter(|row| holds(row)).cloned().collect();
                let narrow = |row: &Object| -> Object {
                    row.iter()
                        .filter(|(name, _)| ["day", "fare"].contains(&name.as_str()))
                        .map(|(n, v)| (n.clone(), v.clone()))
                        .collect()
                };
                let found = ask(&world, &selection, query_of(&["fare", "day"], &condition, &[], None)).await.unwrap();
                assert_eq!(found, wanted.iter().map(narrow).collect::<Vec<_>>(), "{condition} {live}");
                let found =
                    ask(&world, &selection, query_of(&["fare", "day"], &condition, &[], Some(7))).await.unwrap();
                assert_eq!(found, wanted.iter().take(7).map(narrow).collect::<Vec<_>>(), "{condition} {live}");
                // Sorted by something that is not shown, the largest first.
                let mut sorted = wanted.clone();
                sorted.sort_by(|a, b| number(b, "fare").partial_cmp(&number(a, "fare")).unwrap());
                let fares = |rows: &[Object]| rows.iter().map(|row| number(row, "fare")).collect::<Vec<_>>();
                let found = ask(&world, &selection, query_of(&[], &condition, &["-fare"], None)).await.unwrap();
                assert_eq!(fares(&found), fares(&sorted), "{condition} {live}");
                let found = ask(&world, &selection, query_of(&["day"], &condition, &["-fare"], Some(3))).await.unwrap();
                assert_eq!(found.len(), sorted.len().min(3), "{condition} {live}");
                assert!(found.iter().all(|row| row.len() == 1));
            }
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_the_table_is_said_with_what_would() {
    let world = World::sample(Uniqueness::Day).await;
    let cases = [
        (query_of(&["fare", "fares"], "", &[], None), "no column \"fares\"; there are day, event_time"),
        (query_of(&["fare", "fare"], "", &[], None), "fare is there twice"),
        (query_of(&[], "fare > 'much'", &[], None), "at character 8"),
        (query_of(&[], "", &["-when"], None), "the order: there is no column \"when\""),
    ];
    for (wanted, why) in cases {
        let error = ask(&world, &Selection::default(), wanted).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
