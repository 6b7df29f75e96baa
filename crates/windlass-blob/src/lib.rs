//! Object storage for Windlass: streaming, resumable, verified transfers.
//!
//! A [`BlobStore`] is opened from a [`BlobUrl`] and does the same things on S3, GCS, Azure, a local folder and
//! memory. The protocols are `object_store`'s; what this crate adds is what moving data that matters needs:
//!
//! * **Reading** ([`BlobStore::get_stream`]) is pinned to the state of the object that the first answer showed. A cut
//!   connection goes on at the next byte with `If-Match`; another state is [`ErrorKind::Changed`], never a mixture.
//! * **Writing** ([`BlobStore::put_stream`]) holds a few parts in memory, takes checksums on the way, tries parts again
//!   one by one, and leaves nothing behind when it fails.
//! * **Listing** ([`BlobStore::list`]) is complete, says that it is not, or is an error. A missing folder is an error.
//! * **Trying again** ([`RetryPolicy`]) counts from the last progress, obeys `Retry-After`, and is deaf neither to
//!   cancellation nor to a simulated clock. The library's own retries are off.
//! * **Errors** ([`BlobError`]) have a kind for programs and a sentence for people, without secrets.
//!
//! Credentials come from the [`Environment`] handed in and never from URLs:
//!
//! | scheme | variables |
//! |---|---|
//! | `s3` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`; or a role by `AWS_WEB_IDENTITY_TOKEN_FILE` + `AWS_ROLE_ARN`, `AWS_CONTAINER_CREDENTIALS_…`, or the machine. Also `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, `AWS_CA_BUNDLE`, `AWS_SKIP_SIGNATURE` |
//! | `gs` | `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT`, `GOOGLE_SERVICE_ACCOUNT_KEY`; `STORAGE_EMULATOR_HOST` |
//! | `az` | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY` or `AZURE_STORAGE_SAS_TOKEN` or `AZURE_CLIENT_ID` + `AZURE_CLIENT_SECRET` + `AZURE_TENANT_ID`; `AZURE_STORAGE_ENDPOINT` |

mod bandwidth;
mod blob_url;
mod blocking;
mod checksum;
mod connect;
mod environment;
mod error;
mod list;
mod objects;
mod probe;
mod read;
mod retry;
mod store;
mod transfer;
mod upload;
mod wire;

pub use bandwidth::Bandwidth;
pub use blob_url::{BlobUrl, Place, Style, UrlError};
pub use blocking::BlockingReader;
pub use checksum::{Digester, Digests};
pub use environment::Environment;
pub use error::{BlobError, ErrorKind, Operation, Result};
pub use list::{Entry, ListPages, Listing};
pub use objects::{PutMode, Written};
pub use probe::{ConditionalPut, Honoured};
pub use read::{BlobReader, ReadAhead, ReadOptions};
pub use retry::RetryPolicy;
pub use store::{BlobStore, Context, Counts, Meta, Observer, Request, Revision, Settings, Timeouts};
pub use transfer::{DownloadOptions, Downloaded};
pub use upload::UploadOptions;
pub use wire::install_crypto_provider;
