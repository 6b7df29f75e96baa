//! The task types, one file for each sort of thing.
//!
//! Each makes something and knows how to take it back; the task that does so has a type of its own: `create.tenant` and
//! `delete.tenant`, `copy.volume` and `delete.volume.copy`. See [`REVERSE`] and [`removal`].

pub(crate) mod diagnose;
pub(crate) mod flavor;
pub(crate) mod gather;
pub(crate) mod hold;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod keypair;
pub(crate) mod neutron;
pub(crate) mod removal;
pub(crate) mod router;
pub(crate) mod tenant;
pub(crate) mod volume;

use serde::{Deserialize, Serialize};

/// What undoes what. Rules go before their group and subnets before their network, each by itself.
pub const REVERSE: [(&str, &str); 14] = [
    ("recover.create.tenant", "recover.delete.tenant"),
    ("recover.create.security_group", "recover.delete.security_group"),
    ("recover.create.security_group_rule", "recover.delete.security_group"),
    ("recover.create.network", "recover.delete.network"),
    ("recover.create.subnet", "recover.delete.network"),
    ("recover.create.router", "recover.delete.router"),
    ("recover.create.floatingip", "recover.delete.floatingip"),
    ("recover.create.spec", "recover.delete.spec"),
    ("recover.create.keypair", "recover.delete.keypair"),
    ("recover.create.image", "recover.delete.image"),
    ("recover.copy.volume", "recover.delete.volume.copy"),
    ("recover.import.volume", "recover.unmanage.volume"),
    ("recover.create-and-diagnose.instance", "recover.delete.instance"),
    ("recover.stop.instance", "recover.delete.instance"),
];

/// Something that was made at the target site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Made {
    /// Its id there.
    pub(crate) id: String,
    /// Its name there.
    #[serde(default)]
    pub(crate) name: String,
}
