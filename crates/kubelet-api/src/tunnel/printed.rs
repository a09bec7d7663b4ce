//! What a command in a container prints, read from a WebSocket (RFC 6455) of the subprotocol `v4.channel.k8s.io`.
//!
//! The only stream that is read here and not passed on, for `/run`. Nothing is ever sent on it.

use std::io;

use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Most that is read of a command's output, which is kept in memory: as much as a container runtime gives a kubelet
/// (16 MiB, the `maxMsgSize` of its CRI client).
const MAX_BYTES: usize = 16 << 20;
/// Its reader checks that the server saw this key; what it guards against, caches that replay, is not between us and
/// an API server. Sixteen bytes in base64.
const KEY: HeaderValue = HeaderValue::from_static("dGVuc2lsZS1rdWJlbGV0IQ==");
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// Everything that came.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Printed {
    /// Standard output.
    pub(crate) out: Vec<u8>,
    /// Standard error.
    pub(crate) err: Vec<u8>,
    /// The `Status` object that ends the stream; empty if the stream broke off.
    pub(crate) status: Vec<u8>,
}

/// The first bytes of a frame.
struct Head {
    opcode: u8,
    length: usize,
}

/// Headers that ask for such a WebSocket.
pub(super) fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
        (SEC_WEBSOCKET_KEY, KEY),
        (
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static("v4.channel.k8s.io"),
        ),
    ])
}

/// Reads until the other side ends the stream.
///
/// # Errors
/// When the stream breaks off, is no such WebSocket, or says more than [`MAX_BYTES`].
pub(crate) async fn read(mut from: impl AsyncRead + Unpin) -> io::Result<Printed> {
    let mut printed = Printed::default();
    let mut channel = None;
    loop {
        let Some(head) = Head::read(&mut from).await? else {
            return Ok(printed);
        };
        if head.length > MAX_BYTES - printed.len() {
            return Err(invalid("more than 16 MiB of output"));
        }
        let mut payload = vec![0; head.length];
        from.read_exact(&mut payload).await?;
        match head.opcode {
            CLOSE => return Ok(printed),
            BINARY => {
                channel = payload.first().copied();
                printed.take(channel, payload.get(1..).unwrap_or_default());
            }
            CONTINUATION => printed.take(channel, &payload),
            // Pings and pongs; the stream ends with the command, not with our silence.
            _ => {}
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

// === impl Printed ===

impl Printed {
    fn len(&self) -> usize {
        self.out.len() + self.err.len() + self.status.len()
    }

    fn take(&mut self, channel: Option<u8>, bytes: &[u8]) {
        match channel {
            Some(STDOUT) => self.out.extend_from_slice(bytes),
            Some(STDERR) => self.err.extend_from_slice(bytes),
            Some(STATUS) => self.status.extend_from_slice(bytes),
            _ => {}
        }
    }
}

// === impl Head ===

impl Head {
    /// The next frame's head; none at the end of the stream.
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let first = match from.read_u8().await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            first => first?,
        };
        let second = from.read_u8().await?;
        if second & 0x80 != 0 {
            return Err(invalid("a masked frame from a server"));
        }
        let length = match second {
            126 => u64::from(from.read_u16().await?),
            127 => from.read_u64().await?,
            length => u64::from(length),
        };
        Ok(Some(Self {
            opcode: first & 0x0f,
            length: usize::try_from(length).map_err(|_| invalid("a frame beyond all memory"))?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One frame; `is_last` of its message.
    fn mk_frame(is_last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![if is_last { 0x80 | opcode } else { opcode }];
        match payload.len() {
            short @ 0..126 => frame.push(u8::try_from(short).unwrap()),
            middle @ 126..=65_535 => {
                frame.push(126);
                frame.extend(u16::try_from(middle).unwrap().to_be_bytes());
            }
            long => {
                frame.push(127);
                frame.extend(u64::try_from(long).unwrap().to_be_bytes());
            }
        }
        frame.extend(payload);
        frame
    }

    fn mk_message(channel: u8, text: &[u8]) -> Vec<u8> {
        mk_frame(true, BINARY, &[&[channel], text].concat())
    }

    #[tokio::test]
    async fn each_channel_is_put_together_from_its_messages() {
        let big = vec![b'x'; 70_000];
        let stream = [
            mk_message(STDOUT, b"one "),
            mk_message(STDERR, b"oops"),
            mk_frame(true, 9, b"ping"),
            mk_frame(false, BINARY, &[&[STDOUT], &b"t"[..]].concat()),
            mk_frame(false, CONTINUATION, b"w"),
            mk_frame(true, CONTINUATION, b"o"),
            mk_message(STDOUT, &big),
            mk_message(STDERR, &[b'y'; 300]),
            mk_frame(true, BINARY, b""),
            mk_message(STATUS, b"{}"),
            mk_frame(true, CLOSE, &[3, 232]),
            mk_message(STDOUT, b"after the end"),
        ]
        .concat();
        let printed = read(&stream[..]).await.unwrap();
        assert_eq!(printed.out, [&b"one two"[..], &big].concat());
        assert_eq!(printed.err, [&b"oops"[..], &[b'y'; 300]].concat());
        assert_eq!(printed.status, b"{}");
    }

    #[tokio::test]
    async fn what_is_no_such_stream_is_an_error() {
        let masked = [0x82, 0x81, 0, 0, 0, 0, STDOUT];
        let endless = [&[0x82, 127][..], &u64::MAX.to_be_bytes()].concat();
        for bytes in [&masked[..], &endless, &mk_message(STDOUT, b"cut off")[..5]] {
            assert!(read(bytes).await.is_err(), "{bytes:?}");
        }
        assert_eq!(read(&[][..]).await.unwrap(), Printed::default());
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let chunk = mk_message(STDOUT, &vec![b'x'; 1 << 20]);
        let mut stream = chunk.repeat(15);
        assert_eq!(read(&stream[..]).await.unwrap().out.len(), 15 << 20);
        stream.extend(chunk.repeat(2));
        let error = read(&stream[..]).await.unwrap_err();
        assert_eq!(error.to_string(), "more than 16 MiB of output");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&bytes[..]));
        }
    }
}
