//! From a URL and an environment to a store of the underlying library.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::ClientConfigKey;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::blob_url::{BlobUrl, Place, Style, check_endpoint, is_loopback};
use crate::environment::Environment;
use crate::error::{BlobError, ErrorKind, Operation, Result};
use crate::retry::{classify, classify_io};
use crate::wire::{Connector, install_crypto_provider};

/// One store, seen through each of the interfaces it has.
#[derive(Clone)]
pub(crate) struct Backend {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Listing page by page; local folders and memory have none.
    pub(crate) pages: Option<Arc<dyn PaginatedListStore>>,
    /// Uploads whose parts can be tried again one by one; local folders have none.
    pub(crate) parts: Option<Arc<dyn MultipartStore>>,
    /// Set for local folders.
    pub(crate) folder: Option<PathBuf>,
    /// What must not appear in any message.
    pub(crate) secrets: Vec<String>,
}

/// Named memory stores live as long as the process, as a bucket does.
static MEMORY: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

pub(crate) fn connect(url: &BlobUrl, environment: &Environment, connect_timeout: Duration) -> Result<Backend> {
    let opening = Opening { url, environment, connect_timeout };
    match url.place() {
        Place::S3 { bucket, region, style } => opening.s3(bucket, region.as_deref(), *style),
        Place::Gcs { bucket } => opening.gcs(bucket),
        Place::Azure { container, account } => opening.azure(container, account.as_deref()),
        Place::File { root, create } => opening.folder(root, *create),
        Place::Memory { name } => {
            let mut stores = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
            let store = Arc::clone(stores.entry(name.clone()).or_default());
            Ok(Backend {
                objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
                pages: None,
                parts: Some(store),
                folder: None,
                secrets: Vec::new(),
            })
        }
    }
}

struct Opening<'a> {
    url: &'a BlobUrl,
    environment: &'a Environment,
    connect_timeout: Duration,
}

/// The library never tries again: it would do so without our clock, and deaf to cancellation.
fn no_retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::ZERO }
}

impl Opening<'_> {
    fn invalid(&self, cause: impl Into<String>) -> BlobError {
        BlobError::new(ErrorKind::Invalid, Operation::Open, self.url, cause)
    }

    fn failed(&self, error: &object_store::Error, secrets: &[String]) -> BlobError {
        let failure = classify(error);
        self.invalid(scrub(failure.cause, secrets))
    }

    fn endpoint_from(&self, names: &[&str], allow_http: bool) -> Result<Option<Url>> {
        if let Some(endpoint) = self.url.endpoint() {
            return Ok(Some(endpoint.clone()));
        }
        for name in names {
            if let Some(text) = self.environment.get(name) {
                let url = check_endpoint(&text, allow_http).map_err(|why| self.invalid(format!("{name}: {why}")))?;
                return Ok(Some(url));
            }
        }
        Ok(None)
    }

    fn connector(&self, endpoint: Option<&Url>) -> Result<Connector> {
        install_crypto_provider();
        let mut extra_roots = Vec::new();
        let plain = endpoint.is_some_and(|endpoint| endpoint.scheme() == "http");
        if !plain && let Some(path) = self.environment.get("AWS_CA_BUNDLE") {
            let unusable = |why: String| self.invalid(format!("AWS_CA_BUNDLE names {path}: {why}"));
            let pem = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
            extra_roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
        }
        let loopback = endpoint.is_some_and(is_loopback);
        Ok(Connector { connect_timeout: self.connect_timeout, loopback, extra_roots })
    }

    fn client_options(endpoint: Option<&Url>) -> ClientOptions {
        let plain = endpoint.is_some_and(|endpoint| endpoint.scheme() == "http");
        ClientOptions::new().with_config(ClientConfigKey::AllowHttp, plain.to_string())
    }

    fn s3(&self, bucket: &str, region: Option<&str>, style: Style) -> Result<Backend> {
        let allow_http = self.url.allow_http() || self.environment.is_true("AWS_ALLOW_HTTP");
        let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
        let endpoint = self.endpoint_from(&names, allow_http)?;
        let region = region
            .map(str::to_owned)
            .or_else(|| self.environment.get("AWS_REGION"))
            .or_else(|| self.environment.get("AWS_DEFAULT_REGION"))
            .unwrap_or_else(|| "us-east-1".to_owned());
        let mut secrets = Vec::new();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_region(region)
            .with_retry(no_retries())
            // One request per object: some stores that speak S3 lack the bulk form.
            .with_disable_bulk_delete(true)
            .with_client_options(Self::client_options(endpoint.as_ref()))
            .with_http_connector(self.connector(endpoint.as_ref())?);
        if let Some(endpoint) = &endpoint {
            let full = if style == Style::VirtualHost { with_bucket(endpoint, bucket) } else { Some(endpoint.clone()) };
            let full = full.ok_or_else(|| {
                self.invalid(format!("{endpoint} cannot have the bucket's name before it; use style=path"))
            })?;
            let text = full.as_str().trim_end_matches('/');
            builder = builder.with_endpoint(text);
        }
        builder = builder.with_virtual_hosted_style_request(style == Style::VirtualHost);
        let (key, secret) = (self.environment.get("AWS_ACCESS_KEY_ID"), self.environment.get("AWS_SECRET_ACCESS_KEY"));
        match (key, secret) {
            _ if self.url.anonymous() || self.environment.is_true("AWS_SKIP_SIGNATURE") => {
                builder = builder.with_skip_signature(true);
            }
            (Some(key), Some(secret)) => {
                secrets.push(secret.clone());
                builder = builder.with_access_key_id(key).with_secret_access_key(secret);
                if let Some(token) = self.environment.get("AWS_SESSION_TOKEN") {
                    secrets.push(token.clone());
                    builder = builder.with_token(token);
                }
            }
            (Some(_), None) => return Err(self.invalid("AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not")),
            (None, Some(_)) => return Err(self.invalid("AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not")),
            (None, None) => builder = self.s3_role(builder, endpoint.is_some(), &mut secrets)?,
        }
        let store = Arc::new(builder.build().map_err(|error| self.failed(&error, &secrets))?);
        Ok(Backend {
            objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
            pages: Some(Arc::clone(&store) as Arc<dyn PaginatedListStore>),
            parts: Some(store),
            folder: None,
            secrets,
        })
    }

    /// No keys: a role, given by the platform this runs on.
    fn s3_role(
        &self,
        mut builder: AmazonS3Builder,
        custom_endpoint: bool,
        secrets: &mut Vec<String>,
    ) -> Result<AmazonS3Builder> {
        use AmazonS3ConfigKey as Key;
        let sources = [
            ("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile),
            ("AWS_ROLE_ARN", Key::RoleArn),
            ("AWS_ROLE_SESSION_NAME", Key::RoleSessionName),
            ("AWS_ENDPOINT_URL_STS", Key::StsEndpoint),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Key::ContainerCredentialsRelativeUri),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Key::ContainerCredentialsFullUri),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Key::ContainerAuthorizationTokenFile),
        ];
        let mut found = false;
        for (name, key) in sources {
            if let Some(value) = self.environment.get(name) {
                found = true;
                secrets.push(value.clone());
                builder = builder.with_config(key, value);
            }
        }
        // Amazon's machines hand out roles at a fixed address. A store elsewhere has no use for those, and asking
        // would only hang.
        if !found && custom_endpoint {
            return Err(self.invalid("no credentials").with_hint(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or add anonymous=true for a public bucket",
            ));
        }
        Ok(builder)
    }

    fn gcs(&self, bucket: &str) -> Result<Backend> {
        let endpoint = self.endpoint_from(&["STORAGE_EMULATOR_HOST"], self.url.allow_http())?;
        let mut secrets = Vec::new();
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(bucket)
            .with_retry(no_retries())
            .with_client_options(Self::client_options(endpoint.as_ref()))
            .with_http_connector(self.connector(endpoint.as_ref())?);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
        }
        if self.url.anonymous() {
            builder = builder.with_skip_signature(true);
        } else {
            let sources = [
                ("GOOGLE_APPLICATION_CREDENTIALS", GoogleConfigKey::ApplicationCredentials, false),
                ("GOOGLE_SERVICE_ACCOUNT", GoogleConfigKey::ServiceAccount, false),
                ("GOOGLE_SERVICE_ACCOUNT_KEY", GoogleConfigKey::ServiceAccountKey, true),
            ];
            for (name, key, secret) in sources {
                if let Some(value) = self.environment.get(name) {
                    if secret {
                        secrets.push(value.clone());
                    }
                    builder = builder.with_config(key, value);
                    break;
                }
            }
        }
        let store = Arc::new(builder.build().map_err(|error| self.failed(&error, &secrets))?);
        Ok(Backend {
            objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
            pages: Some(Arc::clone(&store) as Arc<dyn PaginatedListStore>),
            parts: Some(store),
            folder: None,
            secrets,
        })
    }

    fn azure(&self, container: &str, account: Option<&str>) -> Result<Backend> {
        let endpoint = self.endpoint_from(&["AZURE_STORAGE_ENDPOINT"], self.url.allow_http())?;
        let account = account
            .map(str::to_owned)
            .or_else(|| self.environment.get("AZURE_STORAGE_ACCOUNT_NAME"))
            .or_else(|| self.environment.get("AZURE_STORAGE_ACCOUNT"))
            .ok_or_else(|| {
                self.invalid("no storage account").with_hint("add account=NAME or set AZURE_STORAGE_ACCOUNT_NAME")
            })?;
        let mut secrets = Vec::new();
        let mut builder = MicrosoftAzureBuilder::new()
            .with_container_name(container)
            .with_account(account)
            .with_retry(no_retries())
            .with_client_options(Self::client_options(endpoint.as_ref()))
            .with_http_connector(self.connector(endpoint.as_ref())?);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/').to_owned());
        }
        if self.url.anonymous() {
            builder = builder.with_skip_signature(true);
        } else {
            // Several names for one thing are in use; the map keeps the first that is set.
            let sources = [
                ("AZURE_STORAGE_ACCOUNT_KEY", AzureConfigKey::AccessKey, true),
                ("AZURE_STORAGE_ACCESS_KEY", AzureConfigKey::AccessKey, true),
                ("AZURE_STORAGE_KEY", AzureConfigKey::AccessKey, true),
                ("AZURE_STORAGE_SAS_TOKEN", AzureConfigKey::SasKey, true),
                ("AZURE_STORAGE_SAS_KEY", AzureConfigKey::SasKey, true),
                ("AZURE_CLIENT_ID", AzureConfigKey::ClientId, false),
                ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret, true),
                ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId, false),
                ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost, false),
                ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile, false),
            ];
            let mut chosen: BTreeMap<String, (AzureConfigKey, String)> = BTreeMap::new();
            for (name, key, secret) in sources {
                if let Some(value) = self.environment.get(name) {
                    if secret {
                        secrets.push(value.clone());
                    }
                    chosen.entry(key.as_ref().to_owned()).or_insert((key, value));
                }
            }
            for (key, value) in chosen.into_values() {
                builder = builder.with_config(key, value);
            }
        }
        let store = Arc::new(builder.build().map_err(|error| self.failed(&error, &secrets))?);
        Ok(Backend {
            objects: Arc::clone(&store) as Arc<dyn ObjectStore>,
            pages: Some(Arc::clone(&store) as Arc<dyn PaginatedListStore>),
            parts: Some(store),
            folder: None,
            secrets,
        })
    }

    fn folder(&self, root: &Path, create: bool) -> Result<Backend> {
        let failed = |error: &std::io::Error| {
            let failure = classify_io(error);
            let error = BlobError::new(failure.kind, Operation::Open, self.url, failure.cause);
            match failure.kind {
                // A mistyped folder must not look like an empty one.
                ErrorKind::NotFound => error.with_hint("make the folder first, or add create=true to the URL"),
                _ => error,
            }
        };
        if create {
            std::fs::create_dir_all(root).map_err(|error| failed(&error))?;
        }
        let found = std::fs::metadata(root).map_err(|error| failed(&error))?;
        if !found.is_dir() {
            return Err(self.invalid("it is a file; a blob store is a folder"));
        }
        let store = LocalFileSystem::new_with_prefix(root).map_err(|error| self.failed(&error, &[]))?.with_fsync(true);
        Ok(Backend {
            objects: Arc::new(store),
            pages: None,
            parts: None,
            folder: Some(root.to_path_buf()),
            secrets: Vec::new(),
        })
    }
}

/// The endpoint with the bucket in its host name, which is how the library wants it for virtual-host requests. `None`
/// for an address in numbers.
fn with_bucket(endpoint: &Url, bucket: &str) -> Option<Url> {
    let url::Host::Domain(host) = endpoint.host()? else { return None };
    if host.strip_prefix(bucket).is_some_and(|rest| rest.starts_with('.')) {
        return Some(endpoint.clone());
    }
    let mut full = endpoint.clone();
    full.set_host(Some(&format!("{bucket}.{host}"))).ok()?;
    Some(full)
}

/// Takes secrets out of a text that others wrote.
pub(crate) fn scrub(mut text: String, secrets: &[String]) -> String {
    // A secret of one or two letters would only make a riddle of the text.
    for secret in secrets.iter().filter(|secret| secret.len() > 3) {
        if text.contains(secret.as_str()) {
            text = text.replace(secret.as_str(), "***");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_host_endpoint_has_the_bucket_in_its_host_once() {
        let full = |endpoint: &str| {
            with_bucket(&endpoint.parse().unwrap(), "h").map(|url| url.as_str().trim_end_matches('/').to_owned())
        };
        assert_eq!(full("https://host.example:9").as_deref(), Some("https://h.host.example:9"));
        assert_eq!(full("http://h.example").as_deref(), Some("http://h.example"));
        assert_eq!(full("http://hh.example").as_deref(), Some("http://h.hh.example"));
        assert_eq!(full("http://127.0.0.1:9000"), None);
        assert_eq!(full("http://[::1]:9000"), None);
    }

    #[test]
    fn every_product_opens_with_its_usual_variables_and_without_a_request() {
        let open = |url: &str, pairs: &[(&str, &str)]| {
            let environment = Environment::from_pairs(pairs.iter().copied());
            let url: BlobUrl = url.parse().unwrap();
            connect(&url, &environment, Duration::from_secs(1)).map(|backend| backend.secrets)
        };
        let keys =
            [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_SESSION_TOKEN", "hunter3")];
        assert_eq!(open("s3://bucket?style=virtual-host", &keys).unwrap(), ["hunter2", "hunter3"]);
        assert_eq!(open("s3://bucket?endpoint=https://r2.example&style=virtual-host", &keys).unwrap().len(), 2);
        assert!(open("s3://bucket?endpoint=https://store.example&anonymous=true", &[]).unwrap().is_empty());
        let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "acc"), ("AZURE_STORAGE_ACCOUNT_KEY", "aHVudGVyMg==")];
        assert_eq!(open("az://container/p", &azure).unwrap(), ["aHVudGVyMg=="]);
        assert!(open("az://container", &[]).unwrap_err().to_string().contains("AZURE_STORAGE_ACCOUNT_NAME"));
        assert!(open("gs://bucket?anonymous=true", &[]).unwrap().is_empty());
        let missing = open("gs://bucket", &[("GOOGLE_APPLICATION_CREDENTIALS", "/does/not/exist.json")]).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::Invalid, "{missing}");
    }

    #[test]
    fn secrets_are_taken_out_of_texts() {
        let secrets = ["hunter2".to_owned(), "a".to_owned()];
        assert_eq!(scrub("key hunter2 and hunter2".to_owned(), &secrets), "key *** and ***");
    }
}
