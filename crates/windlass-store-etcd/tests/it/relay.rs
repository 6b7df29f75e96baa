//! A line between a client and a member that can be cut.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes bytes on until it is cut. While it is cut, connections end at once.
pub(crate) struct Relay {
    address: SocketAddr,
    is_up: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Relay {
    pub(crate) async fn to(member: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let is_up = watch::Sender::new(true);
        let switch = is_up.subscribe();
        let task = tokio::spawn(async move {
            let mut lines = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                lines.spawn(pass(client, member.clone(), switch.clone()));
                while lines.try_join_next().is_some() {}
            }
        });
        Self { address, is_up, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn cut(&self) {
        self.is_up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.is_up.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, member: String, mut switch: watch::Receiver<bool>) {
    if !*switch.borrow_and_update() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(member).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = switch.wait_for(|is_up| !is_up) => {}
    }
}
