//! Making a table where one is, or was.

use std::path::Path;

use windlass_blob::Context;
use windlass_table::{Creation, Definition, Result, Table};

fn definition() -> Definition {
    let text = r#"{"name": "t", "event_time": "at", "primary_key": ["id"], "columns": [
        {"name": "at", "type": "timestamp", "nullable": false},
        {"name": "id", "type": "int64", "nullable": false}]}"#;
    Definition::parse(text).unwrap()
}

async fn create(folder: &Path, shards: u32) -> Result<Table> {
    let url = format!("{}?create=true", url::Url::from_file_path(folder.join("data")).unwrap());
    let creation = Creation { url: Some(url), shards, ..Creation::default() };
    Table::create(&folder.join("home"), &definition(), creation, &Context::real()).await
}

#[tokio::test]
async fn repeating_changes_nothing_and_no_log_gets_lost_by_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = create(folder.path(), 2).await.unwrap();
    let again = create(folder.path(), 2).await.unwrap();
    assert_eq!(made.descriptor(), again.descriptor());
    let error = create(folder.path(), 1).await.unwrap_err();
    assert!(error.to_string().contains("with 2 shard(s)"), "{error}");
    assert_eq!(Table::open(again.home(), &Context::real()).unwrap().descriptor().shards, 2);
}

#[tokio::test]
async fn what_is_left_of_a_dropped_table_is_not_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    create(folder.path(), 1).await.unwrap().drop_table(false, &Context::real()).await.unwrap();
    let error = create(folder.path(), 1).await.unwrap_err();
    assert!(error.to_string().contains("was dropped"), "{error}");
    assert!(Table::open(&folder.path().join("home"), &Context::real()).is_err(), "nothing is listed");
}

#[tokio::test]
async fn a_folder_without_day_files_is_told_of_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let creation = Creation { import: Some(folder.path().to_path_buf()), ..Creation::default() };
    let error = Table::create(&home, &definition(), creation, &Context::real()).await.unwrap_err();
    assert!(error.to_string().contains("day=YYYY-MM-DD"), "{error}");
    assert!(!home.exists());
}
