//! A TCP proxy between a component and an API server, which can be made to fail.
//!
//! TLS passes through it: a component uses [`crate::Cluster::kubeconfig_through`] with the proxy's address.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Bytes that are passed on at a time; large enough for lists of thousands of pods.
const CHUNK: usize = 64 * 1024;

/// What the proxy does to its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Passes everything on.
    None,
    /// Ends all connections and every new one at once, as a process that is gone does.
    Cut,
    /// Accepts connections and keeps them, but passes nothing on, as a network that loses packets does.
    HalfOpen,
    /// What the client sends does not arrive; it gets no answer, and the server does not know that it was asked.
    Unheard,
    /// What the server sends does not arrive: requests are carried out, and the client never learns it.
    Unanswered,
    /// Passes every chunk on after this time, in both directions.
    Delay(Duration),
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// A proxy on a port of loopback; it ends when dropped, and its connections with it.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    listener: JoinHandle<()>,
}

// === impl Fault ===

impl Fault {
    /// Whether bytes wait until it has passed.
    fn holds(self, way: Way) -> bool {
        match self {
            Self::HalfOpen => true,
            Self::Unheard => way == Way::ToServer,
            Self::Unanswered => way == Way::ToClient,
            Self::None | Self::Cut | Self::Delay(_) => false,
        }
    }
}

// === impl FaultProxy ===

impl FaultProxy {
    /// Starts a proxy in front of `upstream`.
    ///
    /// # Errors
    /// It cannot listen on loopback.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("the proxy cannot listen")?;
        let address = listener.local_addr()?;
        let (fault, faults) = watch::channel(Fault::None);
        let listener = tokio::spawn(serve(listener, upstream, faults));
        Ok(Self {
            address,
            fault,
            listener,
        })
    }

    /// Where the proxy listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to all connections from now on; [`Fault::None`] heals those that still exist.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(listener: TcpListener, upstream: SocketAddr, faults: watch::Receiver<Fault>) {
    // Dropping the set, which aborting this task does, ends all connections.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(connect(client, upstream, faults.clone()));
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection to its end. Its errors are what the proxy is for: both sides see a closed connection.
async fn connect(client: TcpStream, upstream: SocketAddr, mut faults: watch::Receiver<Fault>) -> Result<()> {
    let mut cut = faults.clone();
    let serve = async move {
        pass(&mut faults, Way::ToServer).await?;
        let server = TcpStream::connect(upstream).await?;
        let (client_reader, client_writer) = client.into_split();
        let (server_reader, server_writer) = server.into_split();
        let up = pump(client_reader, server_writer, faults.clone(), Way::ToServer);
        let down = pump(server_reader, client_writer, faults, Way::ToClient);
        tokio::try_join!(up, down).map(drop)
    };
    tokio::select! {
        served = serve => served,
        _ = cut.wait_for(|fault| *fault == Fault::Cut) => Ok(()),
    }
}

/// Passes bytes in one direction until the reader ends.
async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    mut faults: watch::Receiver<Fault>,
    way: Way,
) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let length = reader.read(&mut chunk).await?;
        pass(&mut faults, way).await?;
        if length == 0 {
            return Ok(writer.shutdown().await?);
        }
        writer.write_all(&chunk[..length]).await?;
    }
}

/// Returns when bytes may pass.
async fn pass(faults: &mut watch::Receiver<Fault>, way: Way) -> Result<()> {
    let fault = *faults.wait_for(|fault| !fault.holds(way)).await?;
    if let Fault::Delay(delay) = fault {
        tokio::time::sleep(delay).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const IMPATIENCE: Duration = Duration::from_millis(200);

    /// A server that sends back what it gets, and a proxy in front of it.
    async fn mk_proxy() -> FaultProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        FaultProxy::start(upstream).await.unwrap()
    }

    /// Sends a byte and waits for the answer: its length, 0 at the end of the connection, none in time.
    async fn echo(stream: &mut TcpStream, patience: Duration) -> Option<usize> {
        let exchange = async {
            // A write into a connection that was cut may fail already.
            let _ = stream.write_all(b"x").await;
            stream.read(&mut [0]).await.unwrap_or(0)
        };
        tokio::time::timeout(patience, exchange).await.ok()
    }

    #[tokio::test]
    async fn a_cut_ends_old_and_new_connections_and_healing_lets_new_ones_through() {
        let proxy = mk_proxy().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(echo(&mut stream, PATIENCE).await, Some(1));
        proxy.set(Fault::Cut);
        assert_eq!(echo(&mut stream, PATIENCE).await, Some(0));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(echo(&mut stream, PATIENCE).await, Some(0));
        proxy.set(Fault::None);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(echo(&mut stream, PATIENCE).await, Some(1));
    }

    #[tokio::test]
    async fn a_half_open_connection_is_silent_until_it_heals() {
        let proxy = mk_proxy().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(echo(&mut stream, PATIENCE).await, Some(1));
        proxy.set(Fault::HalfOpen);
        assert_eq!(echo(&mut stream, IMPATIENCE).await, None);
        proxy.set(Fault::None);
        assert_eq!(
            tokio::time::timeout(PATIENCE, stream.read(&mut [0]))
                .await
                .unwrap()
                .unwrap(),
            1
        );
    }

    #[tokio::test]
    async fn one_way_may_be_silent_while_the_other_is_not() {
        let cases = [
            (Fault::None, false, false),
            (Fault::Cut, false, false),
            (Fault::HalfOpen, true, true),
            (Fault::Unheard, true, false),
            (Fault::Unanswered, false, true),
        ];
        for (fault, to_server, to_client) in cases {
            let held = (fault.holds(Way::ToServer), fault.holds(Way::ToClient));
            assert_eq!(held, (to_server, to_client), "{fault:?}");
        }
        let proxy = mk_proxy().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        for fault in [Fault::Unheard, Fault::Unanswered] {
            proxy.set(fault);
            assert_eq!(echo(&mut stream, IMPATIENCE).await, None, "{fault:?}");
            proxy.set(Fault::None);
            let answer = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await;
            assert_eq!(answer.unwrap().unwrap(), 1, "{fault:?}");
        }
    }

    #[tokio::test]
    async fn a_delay_holds_bytes_back_in_both_directions() {
        let proxy = mk_proxy().await;
        proxy.set(Fault::Delay(IMPATIENCE));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let started = Instant::now();
        assert_eq!(echo(&mut stream, PATIENCE).await, Some(1));
        assert!(started.elapsed() >= 2 * IMPATIENCE, "{:?}", started.elapsed());
    }
}
