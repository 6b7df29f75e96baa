//! The two identities of the Go build cache, and what ties them together.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

macro_rules! id {
    ($name:ident, $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id made of these bytes.
            #[must_use]
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Reads standard base64 with padding, the form on the wire. `None` unless it is exactly 32 bytes.
            #[must_use]
            pub fn from_base64(text: &str) -> Option<Self> {
                // 44 characters and no others: a longer text need not be decoded to be refused.
                if text.len() != 44 {
                    return None;
                }
                let mut bytes = [0; 33];
                let length = STANDARD.decode_slice_unchecked(text, &mut bytes).ok()?;
                if length != 32 {
                    return None;
                }
                bytes[..32].try_into().ok().map(Self)
            }

            /// Standard base64 with padding, the form on the wire.
            #[must_use]
            pub fn base64(&self) -> String {
                STANDARD.encode(self.0)
            }

            /// The base64 form with every `/` replaced by `-`, as it stands in names of objects and files.
            #[must_use]
            pub fn escaped(&self) -> String {
                self.base64().replace('/', "-")
            }

            /// Reads what [`Self::escaped`] writes.
            #[must_use]
            pub fn from_escaped(text: &str) -> Option<Self> {
                // A slash would let two names stand for one id.
                if text.contains('/') {
                    return None;
                }
                Self::from_base64(&text.replace('-', "/"))
            }

            /// 64 lower-case hexadecimal digits.
            #[must_use]
            pub fn hex(&self) -> String {
                use fmt::Write;
                let mut text = String::with_capacity(64);
                for byte in self.0 {
                    // Writing to a string cannot fail.
                    let _ = write!(text, "{byte:02x}");
                }
                text
            }

            /// Reads 64 hexadecimal digits of either case.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return None;
                }
                let mut bytes = [0; 32];
                for (index, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
                }
                Some(Self(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), &self.hex()[..12])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }
    };
}

id!(ActionId, "The key of a build step: a hash of everything that went into it.");
id!(OutputId, "The SHA-256 of the bytes a build step produced.");

impl OutputId {
    /// The id of the empty output, which a quarter of all actions have.
    pub const EMPTY: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
        0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
    ]);

    /// The id of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// What an action points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes produced.
    pub output: OutputId,
    /// How many they are.
    pub size: u64,
    /// When `go` stored it, in nanoseconds since 1970. `go` shows tests as cached by it.
    pub time_unix_nanos: i64,
}
