//! The methods of an agent, as far as faults and counts tell them apart.

use std::fmt;

/// A method of an agent. An element of a stream counts as a call of the unary method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `Object.Exists`
    Exists,
    /// `Object.GetObject`
    GetObject,
    /// `Object.GetTimestamp`
    GetTimestamp,
    /// `Object.StreamListObject`
    StreamListObject,
    /// `Insert.Insert`
    Insert,
    /// `Insert.MultiInsert`
    MultiInsert,
    /// `Update.Update`
    Update,
    /// `Update.MultiUpdate`
    MultiUpdate,
    /// `Update.UpdateTimestamp`
    UpdateTimestamp,
    /// `Upsert.Upsert`
    Upsert,
    /// `Upsert.MultiUpsert`
    MultiUpsert,
    /// `Remove.Remove`
    Remove,
    /// `Remove.MultiRemove`
    MultiRemove,
    /// `Remove.RemoveByTimestamp`
    RemoveByTimestamp,
    /// `Flush.Flush`
    Flush,
    /// `IndexInfo`, at whichever service
    IndexInfo,
    /// `Index.IndexDetail`
    IndexDetail,
    /// `Agent.CreateIndex`
    CreateIndex,
    /// `Agent.SaveIndex`
    SaveIndex,
    /// `Agent.CreateAndSaveIndex`
    CreateAndSaveIndex,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
