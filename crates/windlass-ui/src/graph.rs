//! The plan as a picture: too many tasks are put together ([`collapse`]), placed in layers ([`layers`]) and drawn
//! as SVG ([`draw`]). All pure functions, the same picture for the same plan.

pub(crate) mod collapse;
pub(crate) mod draw;
pub(crate) mod layers;

#[cfg(test)]
pub(crate) mod sample {
    //! Plans to test with.

    use windlass_api::{Graph, GraphEdge, GraphNode, Progress, TaskState};

    pub(crate) fn node(id: impl Into<String>, task_type: &str, state: TaskState, layer: u32) -> GraphNode {
        let id = id.into();
        GraphNode {
            resource: Some(id.clone()),
            id,
            task_type: task_type.into(),
            state,
            count: 1,
            progress: Progress::default(),
            layer,
            started: None,
            ended: None,
        }
    }

    pub(crate) fn edge(from: &str, to: &str) -> GraphEdge {
        GraphEdge { from: from.into(), to: to.into(), required: true, count: 1 }
    }

    fn state(n: usize) -> TaskState {
        TaskState::ALL[n % TaskState::ALL.len()]
    }

    /// `tasks` tasks in `layers` layers of `types` types; each depends on up to three of the layer before.
    pub(crate) fn mesh(tasks: usize, layers: usize, types: usize) -> Graph {
        let width = tasks.div_ceil(layers);
        let mut graph = Graph { tasks: tasks as u64, ..Graph::default() };
        for n in 0..tasks {
            let layer = n / width;
            graph.nodes.push(node(format!("t{n}"), &format!("type{}", (n * 7) % types), state(n / 3), layer as u32));
            if layer > 0 {
                for k in 0..3 {
                    let before = (layer - 1) * width + (n * 31 + k * 17) % width;
                    graph.edges.push(edge(&format!("t{before}"), &format!("t{n}")));
                }
            }
        }
        graph
    }

    /// One task, then `tasks` side by side, then one.
    pub(crate) fn fan(tasks: usize) -> Graph {
        let mut graph = Graph { tasks: tasks as u64 + 2, ..Graph::default() };
        graph.nodes.push(node("first", "begin", TaskState::Succeeded, 0));
        for n in 0..tasks {
            let state = if n < tasks / 2 { TaskState::Succeeded } else { TaskState::Waiting };
            graph.nodes.push(node(format!("t{n}"), "move", state, 1));
            graph.edges.push(edge("first", &format!("t{n}")));
            graph.edges.push(edge(&format!("t{n}"), "last"));
        }
        graph.nodes.push(node("last", "finish", TaskState::Waiting, 2));
        graph
    }

    /// One after the other.
    pub(crate) fn chain(tasks: usize) -> Graph {
        let mut graph = Graph { tasks: tasks as u64, ..Graph::default() };
        for n in 0..tasks {
            graph.nodes.push(node(format!("t{n}"), "step", TaskState::Waiting, n as u32));
            if n > 0 {
                graph.edges.push(edge(&format!("t{}", n - 1), &format!("t{n}")));
            }
        }
        graph
    }
}
