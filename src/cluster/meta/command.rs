//! Commands of the metadata group and their bytes. The page is `docs/formats/meta.md`.

use quorate_model::TenantId;

const VERSION: u8 = 1;

/// A change of the metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Gives the cluster its id, once.
    NameCluster { id: u128 },
    /// Begins a new incarnation of a node.
    RegisterNode { name: String },
    /// Gives a tenant its number, once.
    InternTenant { name: String },
}

/// What a command led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// Nothing to tell.
    Done,
    /// The node's new incarnation.
    Incarnation(u32),
    /// The tenant's number.
    Tenant(TenantId),
}

impl Command {
    /// Version, kind, content: 16 bytes little endian of the id, or the name in UTF-8.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (kind, content) = match self {
            Self::NameCluster { id } => (0, id.to_le_bytes().to_vec()),
            Self::RegisterNode { name } => (1, name.clone().into_bytes()),
            Self::InternTenant { name } => (2, name.clone().into_bytes()),
        };
        [&[VERSION, kind], content.as_slice()].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let [version, kind, content @ ..] = bytes else {
            return Err(format!("a command of {} bytes", bytes.len()));
        };
        if *version != VERSION {
            return Err(format!("command version {version}, this build reads {VERSION}"));
        }
        let name = || String::from_utf8(content.to_vec()).map_err(|_| "a name that is not UTF-8".to_owned());
        match kind {
            0 => {
                let id = content.try_into().map_err(|_| format!("an id of {} bytes", content.len()))?;
                Ok(Self::NameCluster { id: u128::from_le_bytes(id) })
            }
            1 => Ok(Self::RegisterNode { name: name()? }),
            2 => Ok(Self::InternTenant { name: name()? }),
            other => Err(format!("unknown command kind {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_golden(command: Command, bytes: &[u8]) {
        assert_eq!(command.encode(), bytes);
        assert_eq!(Command::decode(bytes), Ok(command));
    }

    #[test]
    fn bytes_never_change() {
        check_golden(Command::NameCluster { id: 1 }, &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        check_golden(Command::RegisterNode { name: "n1".to_owned() }, b"\x01\x01n1");
        check_golden(Command::InternTenant { name: "team-a".to_owned() }, b"\x01\x02team-a");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for bytes in [&b""[..], b"\x01", b"\x02\x01n", b"\x01\x03n", b"\x01\x00short", b"\x01\x01\xff"] {
            assert!(Command::decode(bytes).is_err(), "{bytes:?}");
        }
    }
}
