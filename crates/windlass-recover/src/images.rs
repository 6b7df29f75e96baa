//! Images that instances start from: which of them are at the target site, told by their content.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use windlass_openstack::{CallFault, Cause, Cloud, Scope, Service};

use crate::findings::Finding;
use crate::graph;
use crate::inventory::{Image, Inventory};
use crate::reader;
use crate::spec::RecoverSpec;
use crate::work;

/// Whether every project may start from it, and it has the same content in the same form.
fn fits(there: &Value, image: &Image) -> bool {
    there["status"] == "active"
        && there["os_hidden"] != true
        && matches!(there["visibility"].as_str(), Some("public" | "community"))
        && there["disk_format"] == image.disk_format.as_str()
        && there["container_format"] == image.container_format.as_str()
        && image.digest.is_some()
        && reader::digest_of(there) == image.digest
}

/// Finds the images of the chosen instances at the target site; the others are to be copied from `source`, as far as that
/// can be done.
pub(crate) async fn look(
    target: &Cloud,
    source: Option<&Cloud>,
    spec: &RecoverSpec,
    inventory: &Inventory,
) -> Result<(BTreeMap<String, String>, Vec<Finding>), CallFault> {
    let (mut there, mut found) = (BTreeMap::new(), Vec::new());
    let wanted: BTreeSet<&String> =
        graph::chosen(spec, inventory).into_iter().filter_map(|one| one.image.as_ref()).collect();
    let images: Vec<&Image> = inventory.images.iter().filter(|image| wanted.contains(&image.id)).collect();
    if images.is_empty() {
        return Ok((there, found));
    }
    let site = &target.site().name;
    let all = match target.list(&Scope::Home, Service::Image, "/images?visibility=all", "images").await {
        Err(fault) if matches!(fault.cause, Cause::Setup) => {
            let text = format!("instances start from images, and {site} has no image service: {fault}");
            return Ok((there, vec![Finding::blocking("no_image_service", text)]));
        }
        all => all?,
    };
    for image in images {
        if let Some(id) = all.iter().find(|one| fits(one, image)).and_then(work::id_of) {
            there.insert(image.id.clone(), id);
            continue;
        }
        let why = match (&image.digest, source) {
            (None, _) => "nobody knows what is in it: it is not at the protected site any more".to_owned(),
            (_, None) => "the job has no `source` to copy it from".to_owned(),
            (Some(digest), Some(source)) => {
                match source.find(&Scope::Home, Service::Image, &format!("/images/{}", image.id)).await {
                    Ok(Some(now)) if reader::digest_of(&now).as_ref() == Some(digest) => continue,
                    Ok(Some(_)) => {
                        "the one of the protected site has another content than the inventory says".to_owned()
                    }
                    Ok(None) => "the protected site does not have it any more".to_owned(),
                    Err(fault) => format!("the protected site cannot be asked for it: {fault}"),
                }
            }
        };
        let text = format!(
            "the image {:?} ({}) is not at {site} for everybody, and cannot be copied: {why}; upload it there with the visibility public or community",
            image.name, image.id
        );
        found.push(Finding::blocking("missing_image", text));
    }
    Ok((there, found))
}
