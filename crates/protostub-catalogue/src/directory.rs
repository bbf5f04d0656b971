use std::{
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use protostub_types::{Domain, SafeText, file_name};
use tokio::io::AsyncReadExt as _;
use url::Url;

use crate::{Document, Fault, Request, Source, Subject};

/// Number of bytes that are read of a file at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Stubs in a folder with the layout of their domains' web servers:
///
/// ```text
/// <folder>/sp1.example/.well-known/protostub/default    the descriptor, or `default.json`
/// <folder>/sp1.example/.well-known/protostub/echo.wasm  code for `sourcePackageURL` `echo.wasm`
/// ```
///
/// The folder of a single domain ([`Self::of_domain`]) begins with `.well-known`. Files are read on
/// each request, so they may be replaced at any time. The folder is trusted like the program
/// itself, including symbolic links. Files in `sp1.example:443` count as files of `sp1.example`
/// that its own folder lacks.
///
/// A segment of a URL leads to a file only if [`file_name`] takes it. On Windows, a folder has no
/// colon in its name. So a domain with a port or an IPv6 address needs [`Self::of_domain`] there.
#[derive(Debug, Clone)]
pub struct DirectorySource {
    folder: PathBuf,
    domain: Option<Domain>,
}

impl DirectorySource {
    /// Returns a source with one folder for each domain, named like the domain: `sp1.example`,
    /// `127.0.0.1:8080`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), domain: None }
    }

    /// Returns a source with the folder of one domain.
    pub fn of_domain(domain: Domain, folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), domain: Some(domain) }
    }

    /// Returns the paths at which the file of a URL may be. Returns none if the URL is another
    /// host's.
    fn files(&self, request: &Request<'_>) -> Vec<PathBuf> {
        let folders = match &self.domain {
            Some(domain) if domain == request.domain => vec![self.folder.clone()],
            Some(_) => Vec::new(),
            None => {
                let own = request.domain.to_string();
                // The name of the folder before domains dropped the port 443.
                let former = request.domain.port().is_none().then(|| format!("{own}:443"));
                let names = std::iter::once(own).chain(former).filter(|name| is_folder_name(name, cfg!(windows)));
                names.map(|name| self.folder.join(name)).collect()
            }
        };
        let segments = request.url.path_segments().filter(|_| is_of(request.url, request.domain));
        let Some(names) = segments.and_then(|segments| segments.map(file_of_segment).collect::<Option<PathBuf>>()) else {
            return Vec::new();
        };
        folders.into_iter().map(|folder| folder.join(&names)).collect()
    }
}

/// Returns `true` if the URL is on the domain's own host and port.
fn is_of(url: &Url, domain: &Domain) -> bool {
    Url::parse(&format!("{}://{domain}/", url.scheme())).is_ok_and(|own| own.origin() == url.origin())
}

/// Returns `true` if the text of a domain can be the name of its folder. A domain has only
/// characters that are harmless outside of Windows. There, a domain can be a device or a drive.
fn is_folder_name(domain: &str, is_windows: bool) -> bool {
    !is_windows || file_name(domain).is_some()
}

/// Converts a segment of a URL's path to a file name. Returns `None` if it could lead out of the
/// folder, or is empty.
fn file_of_segment(segment: &str) -> Option<String> {
    percent_decoded(segment).filter(|name| file_name(name).is_some())
}

/// Decodes a percent-encoded segment (RFC 3986, section 2.1). Returns `None` if the result is not
/// UTF-8.
fn percent_decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    loop {
        rest = match rest {
            [] => return String::from_utf8(bytes).ok(),
            [b'%', high, low, behind @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(*high)? << 4 | digit(*low)?);
                behind
            }
            [byte, behind @ ..] => {
                bytes.push(*byte);
                behind
            }
        };
    }
}

#[async_trait]
impl Source for DirectorySource {
    async fn open(&self, request: &Request<'_>) -> Result<Document, Fault> {
        let paths = self.files(request);
        for path in &paths {
            let with_extension = (request.subject == Subject::Descriptor).then(|| {
                let mut name = path.clone().into_os_string();
                name.push(".json");
                PathBuf::from(name)
            });
            for candidate in std::iter::once(path).chain(&with_extension) {
                match open_file(candidate).await {
                    Ok(document) => return Ok(document),
                    Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                    Err(error) => return Err(failed(candidate, &error)),
                }
            }
        }
        let answer = match paths.first() {
            Some(path) => SafeText::display(format_args!("no file {}", path.display())),
            None => SafeText::display(format_args!("not a file below {}", self.folder.display())),
        };
        Err(Fault::NotFound { answer })
    }
}

async fn open_file(path: &Path) -> io::Result<Document> {
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "not a file"));
    }
    let chunks = stream::try_unfold((file, path.to_owned()), async |(mut file, path)| {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        match file.read_buf(&mut chunk).await {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some((Bytes::from(chunk), (file, path)))),
            Err(error) => Err(failed(&path, &error)),
        }
    });
    Ok(Document::from_stream(Some(metadata.len()), chunks))
}

fn failed(path: &Path, error: &io::Error) -> Fault {
    Fault::Source(format!("failed to read {}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_segment_cannot_lead_out() {
        for (segment, expected) in [
            ("default", Some("default")),
            ("a%20b", Some("a b")),
            ("%C3%BC", Some("ü")),
            ("", None),
            ("..", None),
            ("%2e%2E", None),
            ("a%2Fb", None),
            ("a%5cb", None),
            ("%00", None),
            ("%ff", None),
            ("C:secret", None),
            ("%43%3asecret", None),
            ("default%3astream", None),
            ("NUL.wasm", None),
            ("com1", None),
            ("default.", None),
            ("default%20", None),
            ("%f", Some("%f")),
            ("%zz", None),
        ] {
            assert_eq!(file_of_segment(segment).as_deref(), expected, "{segment}");
        }
    }

    #[test]
    fn domain_that_windows_misreads_has_no_folder_there() {
        for (domain, has_folder_on_windows) in [
            ("sp1.example", true),
            ("127.0.0.1", true),
            ("127.0.0.1:8080", false),
            ("c:80", false),
            ("[::1]", false),
            ("nul.example", false),
        ] {
            let domain = Domain::parse(domain).expect("a domain").to_string();
            assert!(is_folder_name(&domain, false), "{domain}");
            assert_eq!(is_folder_name(&domain, true), has_folder_on_windows, "{domain}");
        }
    }
}
