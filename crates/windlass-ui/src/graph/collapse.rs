//! Puts tasks of one type in one state together, where there are more than anybody can look at.
//!
//! Groups keep to layers, so that the picture never has a circle that the plan does not have. A plan of very many
//! layers is cut into bands of 2, 4, 8 … layers until the groups are few enough; edges inside a band are not drawn.

use std::collections::{BTreeMap, HashMap};

use windlass_api::{Graph, Progress, TaskState};

/// Nodes that are drawn one by one.
pub(crate) const DRAWN: usize = 400;

/// Tasks of one layer beyond which it is collapsed although the plan as a whole is small.
const TALLEST: usize = 60;

/// Members of an opened group that are drawn; the table has all.
const OPENED: usize = 120;

/// Edges that are drawn. A picture with more is a grey area.
const EDGES: usize = 4000;

/// A node of the picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// The task, or the group.
    pub(crate) id: String,
    pub(crate) task_type: String,
    /// What the task is about; `None` for groups.
    pub(crate) resource: Option<String>,
    pub(crate) state: TaskState,
    pub(crate) count: u64,
    /// How many of an opened group are not drawn.
    pub(crate) rest_of: Option<String>,
    pub(crate) fraction: Option<f64>,
    pub(crate) layer: usize,
}

/// An edge, between places in [`Picture::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) required: bool,
}

/// What is drawn.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Picture {
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
    /// Whether some nodes are groups.
    pub(crate) collapsed: bool,
    /// Layers of the plan per layer of the picture.
    pub(crate) band: u32,
    /// Edges that are not drawn.
    pub(crate) left_out: usize,
    /// The group that is open.
    pub(crate) open: Option<String>,
    pub(crate) tasks: u64,
}

/// Decides what of a plan is drawn. `open` names a group whose members are wanted one by one.
pub(crate) fn collapse(graph: &Graph, open: Option<&str>) -> Picture {
    let mut tallest: HashMap<u32, usize> = HashMap::new();
    for node in &graph.nodes {
        *tallest.entry(node.layer).or_default() += 1;
    }
    let too_tall = tallest.values().any(|count| *count > TALLEST);
    let grouped = !graph.collapsed && (graph.nodes.len() > DRAWN || too_tall);
    let mut band = 1;
    let groups = if grouped {
        loop {
            let groups = groups(graph, band);
            // A band that is as long as the plan leaves types times states, which are few in any real plan.
            if groups.len() <= DRAWN || band > graph.nodes.len() as u32 {
                break groups;
            }
            band *= 2;
        }
    } else {
        (0..graph.nodes.len()).map(|n| (String::new(), vec![n])).collect()
    };
    let mut picture = Picture { collapsed: grouped || graph.collapsed, band, tasks: graph.tasks, ..Picture::default() };
    let mut node_of = vec![usize::MAX; graph.nodes.len()];
    for (id, members) in groups {
        let alone = members.len() == 1;
        let shown = if alone {
            1
        } else if open == Some(id.as_str()) {
            picture.open = Some(id.clone());
            if members.len() <= OPENED { members.len() } else { OPENED }
        } else {
            0
        };
        for &n in &members[..shown] {
            let from = &graph.nodes[n];
            node_of[n] = picture.nodes.len();
            picture.nodes.push(Node {
                id: from.id.clone(),
                task_type: from.task_type.clone(),
                resource: from.resource.clone(),
                state: from.state,
                count: from.count,
                rest_of: None,
                fraction: from.progress.fraction(),
                layer: (from.layer / band) as usize,
            });
        }
        let rest = &members[shown..];
        if let Some(&first) = rest.first() {
            let first = &graph.nodes[first];
            let work = rest.iter().fold(None, |sum: Option<Progress>, n| {
                let own = graph.nodes[*n].progress;
                Some(sum.map_or(own, |sum| plus(&sum, &own)))
            });
            for &n in rest {
                node_of[n] = picture.nodes.len();
            }
            picture.nodes.push(Node {
                id: if shown > 0 { format!("{id}+") } else { id.clone() },
                task_type: first.task_type.clone(),
                resource: None,
                state: first.state,
                count: rest.iter().map(|n| graph.nodes[*n].count).sum(),
                rest_of: (shown > 0).then(|| id.clone()),
                fraction: work.and_then(|work| work.fraction()),
                layer: (first.layer / band) as usize,
            });
        }
    }
    dense_layers(&mut picture.nodes);
    edges(graph, &node_of, &mut picture);
    picture
}

fn plus(a: &Progress, b: &Progress) -> Progress {
    let both = |a: Option<u64>, b: Option<u64>| Some(a?.saturating_add(b?));
    Progress {
        done_items: a.done_items.saturating_add(b.done_items),
        total_items: both(a.total_items, b.total_items),
        done_bytes: a.done_bytes.saturating_add(b.done_bytes),
        total_bytes: both(a.total_bytes, b.total_bytes),
    }
}

/// Places of nodes by group, in the order of layers.
fn groups(graph: &Graph, band: u32) -> Vec<(String, Vec<usize>)> {
    let mut groups: BTreeMap<(u32, &str, TaskState), Vec<usize>> = BTreeMap::new();
    for (n, node) in graph.nodes.iter().enumerate() {
        groups.entry((node.layer / band, &node.task_type, node.state)).or_default().push(n);
    }
    let id = |(layer, task_type, state): (u32, &str, TaskState)| format!("{task_type}:{}:{layer}", state.as_str());
    groups.into_iter().map(|(key, members)| (id(key), members)).collect()
}

/// Layers without a node are left out.
fn dense_layers(nodes: &mut [Node]) {
    let mut used: Vec<usize> = nodes.iter().map(|node| node.layer).collect();
    used.sort_unstable();
    used.dedup();
    for node in nodes {
        node.layer = used.partition_point(|layer| *layer < node.layer);
    }
}

fn edges(graph: &Graph, node_of: &[usize], picture: &mut Picture) {
    let place: HashMap<&str, usize> = graph.nodes.iter().enumerate().map(|(n, node)| (node.id.as_str(), n)).collect();
    let mut seen: BTreeMap<(usize, usize), bool> = BTreeMap::new();
    for edge in &graph.edges {
        let (Some(from), Some(to)) = (place.get(edge.from.as_str()), place.get(edge.to.as_str())) else { continue };
        let (from, to) = (node_of[*from], node_of[*to]);
        if picture.nodes[from].layer >= picture.nodes[to].layer {
            continue;
        }
        *seen.entry((from, to)).or_default() |= edge.required;
    }
    picture.left_out = seen.len().saturating_sub(EDGES);
    picture.edges = seen.into_iter().take(EDGES).map(|((from, to), required)| Edge { from, to, required }).collect();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::sample::{chain, fan, mesh};

    #[test]
    fn a_small_plan_is_drawn_as_it_is() {
        let picture = collapse(&fan(20), None);
        assert!(!picture.collapsed);
        assert_eq!((picture.nodes.len(), picture.edges.len()), (22, 40));
    }

    #[test]
    fn five_thousand_side_by_side_become_one_node_per_state() {
        let picture = collapse(&fan(5000), None);
        let shown: Vec<(String, u64)> = picture.nodes.iter().map(|node| (node.id.clone(), node.count)).collect();
        let expected = [("first", 1), ("move:waiting:1", 2500), ("move:succeeded:1", 2500), ("last", 1)];
        assert_eq!(shown, expected.map(|(id, count)| (id.to_owned(), count)));
        assert_eq!(picture.edges.len(), 4);
    }

    #[test]
    fn an_opened_group_shows_some_members_and_how_many_are_left() {
        let picture = collapse(&fan(5000), Some("move:waiting:1"));
        assert_eq!(picture.open.as_deref(), Some("move:waiting:1"));
        assert_eq!(picture.nodes.len(), 3 + OPENED + 1);
        let rest = picture.nodes.iter().find(|node| node.rest_of.is_some()).unwrap();
        assert_eq!(rest.count, 2500 - OPENED as u64);
        let of_it: u64 = picture.nodes.iter().map(|node| node.count).sum();
        assert_eq!(of_it, 5002);
    }

    #[test]
    fn whatever_the_shape_the_picture_is_bounded_and_loses_no_task() {
        for graph in [mesh(5000, 5, 3), mesh(5000, 50, 40), mesh(5000, 500, 4), chain(5000), fan(5000)] {
            let picture = collapse(&graph, None);
            assert!(picture.nodes.len() <= DRAWN, "{} nodes", picture.nodes.len());
            assert!(picture.edges.len() <= EDGES);
            assert_eq!(picture.nodes.iter().map(|node| node.count).sum::<u64>(), 5000.max(graph.tasks));
            for edge in &picture.edges {
                assert!(picture.nodes[edge.from].layer < picture.nodes[edge.to].layer);
            }
        }
    }

    #[test]
    fn an_edge_to_a_task_that_is_not_there_is_left_out() {
        let mut graph = chain(3);
        graph.edges.push(crate::graph::sample::edge("nobody", "t1"));
        assert_eq!(collapse(&graph, None).edges.len(), 2);
    }
}
