//! An HTTP server for files: one GET per connection. RFC 9112

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use std::path::{Component, Path, PathBuf};

const PORT: u16 = 80;
/// Maximum length of a request in bytes.
const REQUEST: usize = 8 << 10;

#[derive(Default)]
struct Connection {
    request: Vec<u8>,
    response: Option<Vec<u8>>,
    sent: usize,
}

/// The HTTP server.
pub struct Web {
    root: Option<PathBuf>,
    connections: Vec<(SocketHandle, Connection)>,
}

impl Web {
    /// Creates a server of the files in `root`, with one connection for each socket.
    pub fn new(root: Option<PathBuf>, sockets: impl Iterator<Item = SocketHandle>) -> Self {
        Self { root, connections: sockets.map(|socket| (socket, Connection::default())).collect() }
    }

    /// Receives requests and sends responses, as far as the sockets have data and room.
    pub fn serve(&mut self, sockets: &mut SocketSet<'_>) {
        for (handle, connection) in &mut self.connections {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                *connection = Connection::default();
                socket.listen(PORT).expect("the port is not 0");
            }
            while socket.can_recv() {
                let taken = socket.recv(|data| (data.len(), data.to_vec())).unwrap_or_default();
                // Data after the request is ignored.
                if connection.response.is_none() {
                    connection.request.extend(taken);
                }
            }
            let is_over = socket.may_send() && !socket.may_recv();
            let is_whole = connection.request.windows(4).any(|window| window == b"\r\n\r\n");
            if connection.response.is_none() && (is_whole || connection.request.len() > REQUEST) {
                connection.response = Some(respond(self.root.as_deref(), &connection.request));
            }
            if connection.response.is_none() && is_over {
                // The client closed the connection before the end of its request.
                socket.abort();
            }
            if let Some(response) = &connection.response {
                while connection.sent < response.len() && socket.can_send() {
                    connection.sent += socket.send_slice(&response[connection.sent..]).unwrap_or(0);
                }
                if connection.sent == response.len() {
                    socket.close();
                }
            }
        }
    }
}

/// Returns the response to a request.
fn respond(root: Option<&Path>, request: &[u8]) -> Vec<u8> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some(path)) => {
            match root.and_then(|root| inside(root, path)).and_then(|path| std::fs::read(path).ok()) {
                Some(body) => ("200 OK", body),
                None => ("404 Not Found", b"not found\n".to_vec()),
            }
        }
        _ => ("400 Bad Request", b"bad request\n".to_vec()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

/// Returns the file that `path` names in `root`; `None` for a path that could leave `root`.
fn inside(root: &Path, path: &str) -> Option<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    path.components().all(|part| matches!(part, Component::Normal(_))).then(|| root.join(path))
}
