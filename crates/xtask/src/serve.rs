//! The HTTP server from which the guest fetches files.

use crate::image;
use crate::scratch::Scratch;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tiny_http::{Response, Server};

#[derive(Args)]
pub struct Options {
    /// Address and port to listen on
    #[arg(long)]
    bind: String,
    /// Folder to serve
    #[arg(long)]
    folder: PathBuf,
}

/// A server that runs in a thread; it stops when it is dropped.
pub struct Serving {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
    pub port: u16,
}

fn listen(bind: &str) -> Result<Server> {
    Server::http(bind).map_err(|error| anyhow!("cannot listen on {bind}: {error}"))
}

/// Answers requests until the server is stopped.
fn answer(server: &Server, folder: &Path) {
    for request in server.incoming_requests() {
        let name = request.url().trim_start_matches('/').to_string();
        let is_inside = !name.split('/').any(|part| part == "..");
        let file = if is_inside { File::open(folder.join(&name)).ok() } else { None };
        let result = match file.filter(|file| file.metadata().is_ok_and(|m| m.is_file())) {
            Some(file) => request.respond(Response::from_file(file)),
            None => request.respond(Response::from_string("not found\n").with_status_code(404)),
        };
        // An error means that the guest closed the connection; its output tells why.
        drop(result);
    }
}

/// Serves `folder` on a free port of the loopback interface.
pub fn start(folder: &Path) -> Result<Serving> {
    let server = Arc::new(listen("127.0.0.1:0")?);
    let port = server.server_addr().to_ip().context("no port")?.port();
    let (inner, folder) = (server.clone(), folder.to_path_buf());
    let thread = thread::spawn(move || answer(&inner, &folder));
    Ok(Serving { server, thread: Some(thread), port })
}

/// The files that a kernel reads from a disk and fetches, in a directory of their own.
pub struct Fixture {
    pub folder: Scratch,
    /// The files, which the server serves.
    pub tree: PathBuf,
    /// The image of an ext4 file system with the files.
    pub ext4: PathBuf,
    pub server: Serving,
}

impl Fixture {
    pub fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let (tree, ext4) = (folder.path().join("tree"), folder.path().join("disk0.img"));
        image::make_tree(&tree)?;
        image::make_ext4(&tree, &ext4)?;
        let server = start(&tree)?;
        Ok(Self { folder, tree, ext4, server })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves until the process is killed.
pub fn serve_forever(options: &Options) -> Result<()> {
    let server = listen(&options.bind)?;
    // The parent process waits for this line.
    println!("listening");
    answer(&server, &options.folder);
    Ok(())
}
