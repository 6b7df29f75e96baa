//! What a table is: its columns, its keys, and how late rows are treated.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow_schema::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cell::Cell;
use crate::column::ColumnType;
use crate::error::{Result, TableError};

/// The column of the day, by which the table is partitioned. It is not in the files.
pub const DAY_COLUMN: &str = "day";
/// Columns of a batch that say how its rows are meant, not what is in them.
pub(crate) const RESERVED: char = '_';

/// What counts as one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uniqueness {
    /// A key lives once in each day.
    #[default]
    Day,
    /// A key lives once in the table: a row that comes for another day moves it there.
    Table,
}

/// How changed days are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The files of a changed day are written anew, in sort order.
    #[default]
    CopyOnWrite,
    /// What changed goes into a small file, and deletion vectors hide what it replaces, until a day has too many of both.
    /// Readers have to know deletion vectors.
    MergeOnRead,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Whether it may be null.
    #[serde(default = "yes")]
    pub nullable: bool,
    /// What an inserted row gets that does not bring the column. Absent: null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
}

fn yes() -> bool {
    true
}

/// A table. Made by [`Definition::parse`], which checks it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Columns that there were. Their names are not given again: what files still hold of them would come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
    /// The column that says when it happened.
    pub event_time: String,
    /// The columns that name a row.
    pub primary_key: Vec<String>,
    /// The columns by which the rows of a day are sorted, before the primary key.
    #[serde(default)]
    pub sort_columns: Vec<String>,
    /// What counts as one key.
    #[serde(default)]
    pub uniqueness: Uniqueness,
    /// If there is one: a row with less in it than the stored one has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_column: Option<String>,
    /// How long after its event a row is still live, in seconds: what archiving leaves alone.
    #[serde(default = "one_day")]
    pub delay_seconds: u64,
    /// Rows that arrive more days late than this are dropped. `None`: none are. Archived days stay, however old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// How far ahead of the clock an event may be, in seconds.
    #[serde(default)]
    pub max_future_seconds: u64,
    /// How changed days are written.
    #[serde(default)]
    pub layout: Layout,
    /// Data files are closed at about this size, in megabytes.
    #[serde(default = "file_mb")]
    pub target_file_mb: u32,
    /// Rows in a row group of a data file.
    #[serde(default = "group_rows")]
    pub row_group_rows: u32,
    /// Bytes of one shard's unmerged rows at which a backfill is due.
    #[serde(default = "soft")]
    pub soft_limit_bytes: u64,
    /// Bytes of one shard's unmerged rows at which no more are taken in.
    #[serde(default = "hard")]
    pub hard_limit_bytes: u64,
}

fn one_day() -> u64 {
    86_400
}
fn file_mb() -> u32 {
    128
}
fn group_rows() -> u32 {
    122_880
}
fn soft() -> u64 {
    64 << 20
}
fn hard() -> u64 {
    4 << 30
}

impl Definition {
    /// Reads a definition, and also the form in which columns are named by their position.
    ///
    /// # Errors
    ///
    /// The first fault that is found, with what would be right.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| TableError::invalid(format!("the definition of the table is no JSON: {error}")))?;
        Self::from_value(value)
    }

    /// As [`Definition::parse`].
    ///
    /// # Errors
    ///
    /// As [`Definition::parse`].
    pub fn from_value(value: Value) -> Result<Self> {
        let definition: Self = serde_json::from_value(by_name(value)?)
            .map_err(|error| TableError::invalid(format!("the definition of the table cannot be read: {error}")))?;
        definition.check()?;
        Ok(definition)
    }

    /// Whether everything in it fits together.
    ///
    /// # Errors
    ///
    /// The first fault.
    pub fn check(&self) -> Result<()> {
        let table = &self.name;
        let fault = |what: String| Err(TableError::invalid(format!("table {table}: {what}")));
        if table.is_empty()
            || table.len() > 128
            || !table.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
            || table.starts_with('.')
        {
            return fault(
                "a name has up to 128 letters, digits, `_`, `-` and `.`, and begins with none of the latter".into(),
            );
        }
        let mut seen = BTreeSet::new();
        for column in &self.columns {
            let name = &column.name;
            if name.is_empty() || name.starts_with(RESERVED) || name.chars().any(|c| " ,;{}()\n\t=".contains(c)) {
                return fault(format!(
                    "{name:?} cannot name a column: no empty names, no `_` in front, none of ` ,;{{}}()=`"
                ));
            }
            if name.eq_ignore_ascii_case(DAY_COLUMN) {
                return fault(format!(
                    "`{DAY_COLUMN}` is the column by which the table is partitioned; name yours otherwise"
                ));
            }
            if self.dropped.iter().any(|gone| gone.eq_ignore_ascii_case(name)) {
                return fault(format!("a column {name:?} was dropped, and files still hold it; choose another name"));
            }
            if !seen.insert(name.to_ascii_lowercase()) {
                return fault(format!("two columns are named {name:?}, as far as readers that ignore case can tell"));
            }
            if let Some(default) = &column.default
                && !default.is_null()
            {
                Cell::from_json(default, &column.column_type)
                    .map_err(|why| TableError::invalid(format!("table {table}: the default of {name}: {why}")))?;
            }
        }
        let event = self.column(&self.event_time)?;
        if event.column_type != ColumnType::Timestamp || event.nullable {
            return fault(format!("the event time {} has to be a timestamp that is never null", event.name));
        }
        if event.default.is_some() {
            return fault("the event time has no default".into());
        }
        if self.primary_key.is_empty() {
            return fault("a primary key of at least one column is needed".into());
        }
        for (what, names) in [("primary_key", &self.primary_key), ("sort_columns", &self.sort_columns)] {
            let distinct: BTreeSet<&String> = names.iter().collect();
            if distinct.len() != names.len() {
                return fault(format!("`{what}` names a column twice"));
            }
            for name in names {
                let column = self.column(name)?;
                if column.column_type.is_list() {
                    return fault(format!("{name} is a list, which `{what}` cannot contain"));
                }
                if what == "primary_key" && (column.nullable || column.default.is_some()) {
                    return fault(format!(
                        "{name} is in the primary key: it has to be `\"nullable\": false`, without a default"
                    ));
                }
            }
        }
        if let Some(version) = &self.version_column
            && self.column(version)?.column_type.is_list()
        {
            return fault(format!("{version} is a list, by which versions cannot be compared"));
        }
        for column in &self.columns {
            let key = self.primary_key.contains(&column.name) || column.name == self.event_time;
            if !key && !column.nullable && column.default.as_ref().is_none_or(Value::is_null) {
                return fault(format!(
                    "{} may not be null, so it needs a default for rows that do not bring it",
                    column.name
                ));
            }
        }
        if self.retention_days == Some(0) {
            return fault("`retention_days` of 0 would keep nothing; leave it out to keep everything".into());
        }
        if self.target_file_mb == 0 || self.row_group_rows == 0 {
            return fault("`target_file_mb` and `row_group_rows` are at least 1".into());
        }
        if self.hard_limit_bytes < self.soft_limit_bytes {
            return fault("`hard_limit_bytes` is not less than `soft_limit_bytes`".into());
        }
        Ok(())
    }

    /// The column of this name.
    ///
    /// # Errors
    ///
    /// That there is none.
    pub fn column(&self, name: &str) -> Result<&Column> {
        self.columns.iter().find(|column| column.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
            TableError::invalid(format!(
                "table {} has no column {name:?}; its columns are {}",
                self.name,
                known.join(", ")
            ))
        })
    }

    /// The position of the column of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn positions(&self, names: &[String]) -> Vec<usize> {
        names.iter().filter_map(|name| self.position(name)).collect()
    }

    /// The files' columns, as Arrow has them.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let field = |column: &Column| Field::new(&column.name, column.column_type.arrow(), column.nullable);
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }

    /// The schema string of Delta Lake, with the column of the day.
    #[must_use]
    pub fn schema_string(&self) -> String {
        let field = |name: &str, kind: Value, nullable: bool| json!({ "name": name, "type": kind, "nullable": nullable, "metadata": {} });
        let mut fields: Vec<Value> = self
            .columns
            .iter()
            .map(|column| field(&column.name, column.column_type.delta(), column.nullable))
            .collect();
        fields.push(field(DAY_COLUMN, json!("date"), true));
        json!({ "type": "struct", "fields": fields }).to_string()
    }

    /// The definition with its columns found.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let primary_key = self.positions(&self.primary_key);
        let sort = self.positions(&self.sort_columns);
        let mut order = sort.clone();
        order.extend(primary_key.iter().filter(|position| !sort.contains(position)));
        let default = |column: &Column| {
            let given = column.default.as_ref().filter(|value| !value.is_null());
            given.and_then(|value| Cell::from_json(value, &column.column_type).ok()).unwrap_or(Cell::Null)
        };
        Shape {
            schema: self.schema(),
            types: self.columns.iter().map(|column| column.column_type.clone()).collect(),
            defaults: self.columns.iter().map(default).collect(),
            event_time: self.position(&self.event_time).unwrap_or(0),
            version: self.version_column.as_ref().and_then(|name| self.position(name)),
            uniqueness: self.uniqueness,
            primary_key,
            sort,
            order,
        }
    }

    /// Drops a column.
    ///
    /// # Errors
    ///
    /// That there is none, or that the table cannot do without it.
    pub fn drop_column(&mut self, name: &str) -> Result<()> {
        self.column(name)?;
        let needed = self.event_time == name
            || self.primary_key.iter().chain(&self.sort_columns).any(|needed| needed == name)
            || self.version_column.as_deref() == Some(name);
        if needed {
            return Err(TableError::invalid(format!(
                "{name} is the event time, part of the key, a sort column or the version column of {}: it cannot be dropped",
                self.name
            )));
        }
        self.columns.retain(|column| column.name != name);
        self.dropped.push(name.to_owned());
        self.check()
    }

    /// Adds a column at the end.
    ///
    /// # Errors
    ///
    /// That it does not fit.
    pub fn evolve(&mut self, column: Column) -> Result<()> {
        self.columns.push(column);
        self.check()
    }
}

/// A definition with names resolved to positions: what the merge works with.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The columns.
    pub schema: SchemaRef,
    /// Their types.
    pub types: Vec<ColumnType>,
    /// What an inserted row gets.
    pub defaults: Vec<Cell>,
    /// When it happened.
    pub event_time: usize,
    /// What tells older from newer, if anything does.
    pub version: Option<usize>,
    /// What counts as one key.
    pub uniqueness: Uniqueness,
    /// The key.
    pub primary_key: Vec<usize>,
    /// The sort columns.
    pub sort: Vec<usize>,
    /// The sort columns, then what of the key is not among them: a total order of a day's rows.
    pub order: Vec<usize>,
}

/// Names instead of positions, for definitions in the form that counts columns.
fn by_name(mut value: Value) -> Result<Value> {
    let Some(table) = value.as_object_mut() else {
        return Err(TableError::invalid("the definition of a table is a JSON object"));
    };
    let counted = table.remove("fact_table").is_some() | table.contains_key("partition");
    let partition = table.remove("partition");
    if let Some(partition) = partition.as_ref().and_then(Value::as_str) {
        let column = partition.strip_prefix("utc_day(").and_then(|rest| rest.strip_suffix(')'));
        let Some(column) = column else {
            return Err(TableError::invalid(format!(
                "{partition:?} is no partition that is known; write utc_day(COLUMN)"
            )));
        };
        table.entry("event_time").or_insert_with(|| json!(column));
    }
    let mut names = Vec::new();
    for column in table.get_mut("columns").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(column) = column.as_object_mut() else { continue };
        if counted && column.remove("id").and_then(|id| id.as_u64()) != Some(names.len() as u64) {
            return Err(TableError::invalid("the ids of the columns count from 0 without a gap"));
        }
        names.push(column.get("name").cloned().unwrap_or_default());
    }
    for field in ["primary_key", "sort_columns"] {
        for entry in table.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(position) = entry.as_u64() else { continue };
            let name = usize::try_from(position).ok().and_then(|position| names.get(position));
            *entry = name.cloned().ok_or_else(|| {
                TableError::invalid(format!("`{field}` names column {position}, and there are {}", names.len()))
            })?;
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(setting: &str) -> Result<Definition> {
        Definition::parse(&format!(
            r#"{{"name": "t", "event_time": "at", "primary_key": ["id"], {setting} "columns": [
                {{"name": "at", "type": "timestamp", "nullable": false}},
                {{"name": "id", "type": "int64", "nullable": false}}]}}"#
        ))
    }

    #[test]
    fn layouts_are_known_by_name_and_nothing_unknown_is_overlooked() {
        assert_eq!(definition("").unwrap().layout, Layout::CopyOnWrite);
        assert_eq!(definition(r#""layout": "merge_on_read","#).unwrap().layout, Layout::MergeOnRead);
        assert!(definition(r#""layout": "merge","#).is_err());
        assert!(definition(r#""layuot": "copy_on_write","#).unwrap_err().to_string().contains("layuot"));
    }
}
