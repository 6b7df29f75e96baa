//! Places nodes: layers from left to right, nodes of a layer from top to bottom.
//!
//! The usual method of Sugiyama in its simplest form. Long edges get a place in each layer that they cross, so that
//! they run between nodes, not through them. Barycentre sweeps choose the order in a layer; then each node is put
//! as near to the middle of its neighbours as the order allows, which is a least-squares problem that merging
//! neighbouring blocks solves exactly and in linear time.

use super::collapse::Picture;

pub(crate) const NODE_WIDTH: f64 = 190.0;
pub(crate) const NODE_HEIGHT: f64 = 42.0;
pub(crate) const LAYER_GAP: f64 = 58.0;
const NODE_GAP: f64 = 10.0;
const THREAD_GAP: f64 = 6.0;
const SWEEPS: usize = 8;

/// Places that long edges get altogether; beyond it they run straight.
const THREADS: usize = 6000;

/// Where everything is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layout {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// The upper left corner of each node.
    pub(crate) nodes: Vec<(f64, f64)>,
    /// The points of each edge, from the right side of a node to the left side of another.
    pub(crate) edges: Vec<Vec<(f64, f64)>>,
    /// The nodes of each layer from top to bottom, for arrow keys.
    pub(crate) order: Vec<Vec<usize>>,
}

/// A node, or a long edge where it crosses a layer.
struct Spot {
    node: Option<usize>,
    layer: usize,
    before: Vec<usize>,
    after: Vec<usize>,
    y: f64,
}

impl Spot {
    fn height(&self) -> f64 {
        if self.node.is_some() { NODE_HEIGHT } else { 0.0 }
    }
}

/// Places everything.
pub(crate) fn layout(picture: &Picture) -> Layout {
    let mut spots: Vec<Spot> = picture
        .nodes
        .iter()
        .enumerate()
        .map(|(n, node)| Spot { node: Some(n), layer: node.layer, before: Vec::new(), after: Vec::new(), y: 0.0 })
        .collect();
    let mut threads = THREADS;
    let mut runs: Vec<Vec<usize>> = Vec::with_capacity(picture.edges.len());
    for edge in &picture.edges {
        let (first, last) = (picture.nodes[edge.from].layer, picture.nodes[edge.to].layer);
        let mut run = vec![edge.from];
        if last - first - 1 <= threads {
            threads -= last - first - 1;
            for layer in first + 1..last {
                run.push(spots.len());
                spots.push(Spot { node: None, layer, before: Vec::new(), after: Vec::new(), y: 0.0 });
            }
        }
        run.push(edge.to);
        for pair in run.windows(2) {
            spots[pair[0]].after.push(pair[1]);
            spots[pair[1]].before.push(pair[0]);
        }
        runs.push(run);
    }
    let layers = picture.nodes.iter().map(|node| node.layer + 1).max().unwrap_or(0);
    let mut order: Vec<Vec<usize>> = vec![Vec::new(); layers];
    for (n, spot) in spots.iter().enumerate() {
        order[spot.layer].push(n);
    }
    // Where nothing else decides, names do: the same plan is the same picture each time it is drawn.
    let by_name = |n: &usize| spots[*n].node.map(|n| &picture.nodes[n]).map(|n| (&n.task_type, &n.resource, n.state));
    for layer in &mut order {
        layer.sort_by(|a, b| by_name(a).cmp(&by_name(b)));
    }
    sweep(&spots, &mut order);
    settle(&mut spots, &order);
    finish(picture, &spots, &runs, &order)
}

/// Orders each layer by where its neighbours are.
fn sweep(spots: &[Spot], order: &mut [Vec<usize>]) {
    let mut place = vec![0.0; spots.len()];
    let note = |layer: &[usize], place: &mut Vec<f64>| {
        for (at, n) in layer.iter().enumerate() {
            place[*n] = at as f64;
        }
    };
    for layer in order.iter() {
        note(layer, &mut place);
    }
    for round in 0..SWEEPS {
        let forward = round % 2 == 0;
        for step in 0..order.len() {
            let at = if forward { step } else { order.len() - 1 - step };
            let mut keyed: Vec<(f64, usize)> = order[at]
                .iter()
                .map(|n| {
                    let near = if forward { &spots[*n].before } else { &spots[*n].after };
                    let mean = near.iter().map(|n| place[*n]).sum::<f64>() / near.len() as f64;
                    (if near.is_empty() { place[*n] } else { mean }, *n)
                })
                .collect();
            // Stable: nodes that nothing tells apart keep the order of the plan.
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            order[at] = keyed.into_iter().map(|(_, n)| n).collect();
            note(&order[at], &mut place);
        }
    }
}

/// Moves the nodes of each layer towards their neighbours without changing the order.
fn settle(spots: &mut [Spot], order: &[Vec<usize>]) {
    for layer in order {
        let mut y = 0.0;
        for n in layer {
            spots[*n].y = y + spots[*n].height() / 2.0;
            y += spots[*n].height() + gap(&spots[*n]);
        }
        // Layers begin around one middle.
        for n in layer {
            spots[*n].y -= y / 2.0;
        }
    }
    for round in 0..6 {
        let forward = round % 2 == 0;
        for step in 0..order.len() {
            let layer = &order[if forward { step } else { order.len() - 1 - step }];
            let wanted: Vec<f64> = layer
                .iter()
                .map(|n| {
                    let near = if forward { &spots[*n].before } else { &spots[*n].after };
                    if near.is_empty() {
                        spots[*n].y
                    } else {
                        near.iter().map(|n| spots[*n].y).sum::<f64>() / near.len() as f64
                    }
                })
                .collect();
            let mut apart = Vec::with_capacity(layer.len());
            let mut sum = 0.0;
            for (at, n) in layer.iter().enumerate() {
                if at > 0 {
                    let above = &spots[layer[at - 1]];
                    sum += f64::midpoint(above.height(), spots[*n].height()) + gap(above).max(gap(&spots[*n]));
                }
                apart.push(sum);
            }
            for (at, y) in nearest(&wanted, &apart).into_iter().enumerate() {
                spots[layer[at]].y = y;
            }
        }
    }
}

fn gap(spot: &Spot) -> f64 {
    if spot.node.is_some() { NODE_GAP } else { THREAD_GAP }
}

/// The positions nearest to `wanted` of which each lies at least as far below the one before as `apart` says
/// (which holds the sums of the distances). Subtracting the sums makes it a search for the nearest rising
/// sequence, which pooling neighbours that are out of order finds.
fn nearest(wanted: &[f64], apart: &[f64]) -> Vec<f64> {
    let mut blocks: Vec<(f64, usize)> = Vec::with_capacity(wanted.len());
    for (want, sum) in wanted.iter().zip(apart) {
        let mut block = (want - sum, 1);
        while let Some((mean, count)) = blocks.pop_if(|(mean, _)| *mean > block.0) {
            let all = count + block.1;
            block = ((mean * count as f64 + block.0 * block.1 as f64) / all as f64, all);
        }
        blocks.push(block);
    }
    let means = blocks.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count));
    means.zip(apart).map(|(mean, sum)| mean + sum).collect()
}

fn finish(picture: &Picture, spots: &[Spot], runs: &[Vec<usize>], order: &[Vec<usize>]) -> Layout {
    let top = spots.iter().map(|spot| spot.y - spot.height() / 2.0).fold(f64::INFINITY, f64::min);
    let top = if top.is_finite() { top } else { 0.0 };
    let bottom = spots.iter().map(|spot| spot.y + spot.height() / 2.0).fold(top, f64::max);
    let left = |layer: usize| layer as f64 * (NODE_WIDTH + LAYER_GAP);
    let nodes = spots[..picture.nodes.len()]
        .iter()
        .map(|spot| (left(spot.layer), (spot.y - top - NODE_HEIGHT / 2.0).round()))
        .collect();
    let edges = runs
        .iter()
        .map(|run| {
            let mut points = Vec::with_capacity(run.len() * 2);
            for (at, n) in run.iter().enumerate() {
                let (x, y) = (left(spots[*n].layer), (spots[*n].y - top).round());
                if at > 0 {
                    points.push((x, y));
                }
                if at + 1 < run.len() {
                    points.push((x + NODE_WIDTH, y));
                }
            }
            points
        })
        .collect();
    Layout {
        width: left(order.len().saturating_sub(1)) + if order.is_empty() { 0.0 } else { NODE_WIDTH },
        height: (bottom - top).ceil(),
        nodes,
        edges,
        order: order.iter().map(|layer| layer.iter().filter_map(|n| spots[*n].node).collect()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::collapse::collapse;
    use crate::graph::sample::{chain, fan, mesh};

    fn check(picture: &Picture) -> Layout {
        let layout = layout(picture);
        for (n, (x, y)) in layout.nodes.iter().enumerate() {
            assert!(*x >= 0.0 && x + NODE_WIDTH <= layout.width + 0.5, "node {n} at {x}");
            assert!(*y >= -1.0 && y + NODE_HEIGHT <= layout.height + 1.0, "node {n} at {y} of {}", layout.height);
        }
        for layer in &layout.order {
            for pair in layer.windows(2) {
                let (above, below) = (layout.nodes[pair[0]].1, layout.nodes[pair[1]].1);
                assert!(below >= above + NODE_HEIGHT, "{above} and {below} overlap");
            }
        }
        layout
    }

    #[test]
    fn nothing_overlaps_and_everything_is_inside() {
        for graph in [fan(40), chain(30), mesh(300, 12, 3), mesh(5000, 50, 40), mesh(5000, 500, 4), chain(5000)] {
            let layout = check(&collapse(&graph, None));
            assert!(layout.width < 110_000.0 && layout.height < 30_000.0, "{} x {}", layout.width, layout.height);
        }
        check(&collapse(&fan(5000), Some("move:waiting:1")));
        check(&Picture::default());
    }

    #[test]
    fn a_chain_is_a_straight_line() {
        let layout = check(&collapse(&chain(12), None));
        assert!(layout.nodes.iter().all(|(_, y)| *y == layout.nodes[0].1));
    }

    #[test]
    fn one_before_many_sits_in_their_middle() {
        let layout = check(&collapse(&fan(5), None));
        let middle = layout.nodes[3].1;
        assert!((layout.nodes[0].1 - middle).abs() <= 1.0, "{:?}", layout.nodes);
    }

    #[test]
    fn a_long_edge_runs_between_nodes_not_through_them() {
        let mut graph = chain(4);
        graph.edges.push(crate::graph::sample::edge("t0", "t3"));
        let picture = collapse(&graph, None);
        let layout = check(&picture);
        let long = layout.edges.iter().zip(&picture.edges).find(|(_, edge)| edge.to - edge.from == 3).unwrap().0;
        for (x, y) in &long[1..long.len() - 1] {
            for (nx, ny) in &layout.nodes {
                let inside = *x > *nx && *x < nx + NODE_WIDTH && *y > *ny && *y < ny + NODE_HEIGHT;
                assert!(!inside, "({x}, {y}) lies in the node at ({nx}, {ny})");
            }
        }
    }

    #[test]
    fn nearest_positions_keep_the_distances() {
        assert_eq!(nearest(&[0.0, 0.0, 0.0], &[0.0, 10.0, 20.0]), [-10.0, 0.0, 10.0]);
        assert_eq!(nearest(&[0.0, 50.0], &[0.0, 10.0]), [0.0, 50.0]);
    }
}
