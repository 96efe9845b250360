// SPDX-License-Identifier: GPL-2.0

//! What is wanted: TOML files, one for each device, as a rule in `/etc/ddup/`.
//!
//! ```toml
//! store = "/dev/disk/by-id/nvme-Samsung_990"   # a block device or a regular file
//! number = 0                                   # of /dev/ddupN; without it the lowest free
//! read-only = false
//! cache = "64M"
//! index = "64M"
//!
//! [knobs]
//! gc_delay = 60
//!
//! [set]                                        # of a store in a replica set
//! listen = ["192.0.2.1:7789"]
//! transport = "plain"
//!
//! [[peer]]
//! store = "187bec17-3b51-42c0-ba31-d5bbc7612166"
//! address = "192.0.2.2:7789"
//! ```

use crate::{
    error::{Error, Exit, Result},
    family::{format_uuid, parse_uuid, INDEX_MAX},
    knob::{self, Setting},
    size,
};
use serde::{
    de::{self, DeserializeSeed, Deserializer, MapAccess, Unexpected, Visitor},
    Deserialize,
};
use std::{
    fmt, fs,
    net::SocketAddr,
    ops::Range,
    path::{Path, PathBuf},
};

/// Where the files are if nothing else is said.
pub const FOLDER: &str = "/etc/ddup";

/// A device as a file wants it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The file that says so.
    pub file: PathBuf,
    /// The store: a block device or a regular file.
    pub store: PathBuf,
    /// N of /dev/ddupN.
    pub number: Option<u32>,
    /// Nothing is written to the store.
    pub read_only: bool,
    /// Limit of the page cache in bytes.
    pub cache: Option<u64>,
    /// Limit of the index in bytes.
    pub index: Option<u64>,
    /// The knobs that are named; the others stay as they are.
    pub knobs: Vec<Setting>,
    /// How the store is connected to the others of its replica set.
    pub replication: Option<Replication>,
}

/// The connections of a store.
#[derive(Clone, Debug, PartialEq)]
pub struct Replication {
    /// Where the others are listened for.
    pub listen: Vec<SocketAddr>,
    /// The others.
    pub peers: Vec<Peer>,
}

/// Another member of the set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peer {
    /// Its store.
    pub store: [u8; 16],
    /// Where it listens, and the host that it calls from.
    pub address: SocketAddr,
}

/// The most members of a set beside the own.
const PEERS_MAX: usize = 15;
/// The most addresses that a store is listened for at.
const LISTEN_MAX: usize = 16;

/// What a file holds.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Content {
    store: Store,
    number: Option<Number>,
    #[serde(default)]
    read_only: bool,
    cache: Option<Size>,
    index: Option<Size>,
    #[serde(default)]
    knobs: Knobs,
    set: Option<Set>,
    #[serde(default)]
    peer: Peers,
}

/// The table `set`.
struct Set(Vec<SocketAddr>);

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct Table {
            #[serde(default)]
            listen: Vec<Address>,
            transport: Option<Transport>,
        }
        let table = Table::deserialize(deserializer)?;
        // There is no other yet; nobody shall take this one for one that protects.
        if table.transport.is_none() {
            return Err(de::Error::custom(
                "transport is missing: say transport = \"plain\" if all of the network between the \
                 machines is trusted, for then nothing is encrypted or authenticated",
            ));
        }
        let listen: Vec<SocketAddr> = table.listen.into_iter().map(|address| address.0).collect();
        if listen.len() > LISTEN_MAX {
            return Err(de::Error::custom(format!(
                "listen has {} addresses, more than {LISTEN_MAX}",
                listen.len()
            )));
        }
        Ok(Self(listen))
    }
}

struct Transport;

impl<'de> Deserialize<'de> for Transport {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "plain" => Ok(Self),
            other => Err(de::Error::custom(format!(
                "there is no transport `{other}`: it is \"plain\", which is neither encrypted nor \
                 authenticated"
            ))),
        }
    }
}

struct Address(SocketAddr);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Self(address)),
            _ => Err(de::Error::custom(format!(
                "`{text}` is no address and port, such as 192.0.2.1:7789 or [2001:db8::1]:7789"
            ))),
        }
    }
}

/// The tables `peer`.
#[derive(Default)]
struct Peers(Vec<Peer>);

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct Table {
            store: Uuid,
            address: Address,
        }
        let mut peers: Vec<Peer> = Vec::new();
        for table in Vec::<Table>::deserialize(deserializer)? {
            let (store, address) = (table.store.0, table.address.0);
            if address.ip().is_unspecified() {
                let words = format!("a peer has an address, and {} is none", address.ip());
                return Err(de::Error::custom(words));
            }
            if peers.iter().any(|other| other.store == store) {
                let words = format!("store {} is named twice", format_uuid(&store));
                return Err(de::Error::custom(words));
            }
            peers.push(Peer { store, address });
        }
        if peers.len() > PEERS_MAX {
            let words = format!("{} peers are more than {PEERS_MAX}", peers.len());
            return Err(de::Error::custom(words));
        }
        Ok(Self(peers))
    }
}

struct Uuid([u8; 16]);

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match parse_uuid(&text) {
            Some(id) if id != [0; 16] => Ok(Self(id)),
            _ => Err(de::Error::custom(format!(
                "`{text}` is no UUID of a store, as `ddup set show` prints it"
            ))),
        }
    }
}

struct Store(PathBuf);

impl<'de> Deserialize<'de> for Store {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        if !path.is_absolute() {
            let words = format!("`{}` is no absolute path", path.display());
            return Err(de::Error::custom(words));
        }
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            let words = format!("`{}` is no path", path.display());
            return Err(de::Error::custom(words));
        }
        Ok(Self(path))
    }
}

struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match u32::try_from(number) {
            Ok(number) if number <= INDEX_MAX => Ok(Self(number)),
            _ => Err(de::Error::custom(format!(
                "a number is 0 to {INDEX_MAX}, not {number}"
            ))),
        }
    }
}

struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_any(Text {
            expects: "a size such as \"64M\"",
            switch: false,
        })?;
        size::parse(&text).map(Self).map_err(de::Error::custom)
    }
}

/// Takes numbers and text, as text.
#[derive(Clone, Copy)]
struct Text {
    /// What a refusal says.
    expects: &'static str,
    /// Takes `true` and `false` for 1 and 0.
    switch: bool,
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expects)
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<String, E> {
        if !self.switch {
            return Err(E::invalid_type(Unexpected::Bool(value), &self));
        }
        Ok(u8::from(value).to_string())
    }
}

#[derive(Default)]
struct Knobs(Vec<Setting>);

impl<'de> Deserialize<'de> for Knobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = Knobs;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a table of knobs and their values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Knobs, A::Error> {
                let mut settings = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    settings.push(map.next_value_seed(Value(&name))?);
                }
                Ok(Knobs(settings))
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// The value of the knob of that name.
struct Value<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Setting;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Setting, D::Error> {
        let value = deserializer.deserialize_any(Text {
            expects: "a number or \"default\"",
            switch: knob::find(self.0).is_none_or(|knob| knob.max == 1),
        })?;
        Setting::parse(&format!("{}={value}", self.0)).map_err(de::Error::custom)
    }
}

/// Reads what a file wants.
///
/// # Errors
///
/// With the file, the line, the key and what is wrong.
pub fn parse(file: &Path, text: &str) -> Result<Wanted> {
    let content: Content = toml::from_str(text).map_err(|error| {
        let at = error.span().map(|span| place(text, span));
        let (line, key) = at.unwrap_or((1, String::new()));
        let words = error.message().lines().collect::<Vec<_>>().join(", ");
        Error::new(
            Exit::Usage,
            format!("{}:{line}: {}", file.display(), visible(&(key + &words))),
        )
    })?;
    let replication = match (content.set, content.peer.0) {
        (Some(Set(listen)), peers) => Some(Replication { listen, peers }),
        (None, peers) if peers.is_empty() => None,
        (None, _) => {
            return Err(Error::new(
                Exit::Usage,
                format!(
                    "{}:1: set is missing: a file with [[peer]] has a table [set] with `transport`",
                    file.display()
                ),
            ))
        }
    };
    Ok(Wanted {
        file: file.to_owned(),
        store: content.store.0,
        number: content.number.map(|number| number.0),
        read_only: content.read_only,
        cache: content.cache.map(|size| size.0),
        index: content.index.map(|size| size.0),
        knobs: content.knobs.0,
        replication,
    })
}

/// The text with control characters as they are written in TOML, so that a terminal may show it.
fn visible(text: &str) -> String {
    let mut visible = String::new();
    for c in text.chars() {
        match c.is_control() {
            true => visible.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => visible.push(c),
        }
    }
    visible
}

/// The line of a place, from 1, and the key whose value is there, with a colon.
fn place(text: &str, span: Range<usize>) -> (usize, String) {
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let key = before[start..].rsplit_once('=').map(|(key, _)| {
        let key = key.rsplit([',', '{']).next().unwrap_or(key);
        format!("{}: ", key.trim())
    });
    (line, key.unwrap_or_default())
}

/// What is wanted, and what is wrong with files: the others count nevertheless.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of the files' names.
    pub wanted: Vec<Wanted>,
    /// One for each file that does not count.
    pub errors: Vec<Error>,
}

impl Loaded {
    /// Adds what one file says, unless it contradicts another one.
    fn add(&mut self, file: &Path, text: &str) {
        match parse(file, text).and_then(|wanted| self.check(&wanted).map(|()| wanted)) {
            Ok(wanted) => self.wanted.push(wanted),
            Err(error) => self.errors.push(error),
        }
    }

    fn check(&self, wanted: &Wanted) -> Result {
        let same = |what: &str, other: &Wanted| {
            let words = format!(
                "{}: {what} is that of {}",
                wanted.file.display(),
                other.file.display()
            );
            Err(Error::new(Exit::Usage, words))
        };
        for other in &self.wanted {
            if other.store == wanted.store {
                return same("store", other);
            }
            if wanted.number.is_some() && other.number == wanted.number {
                return same("number", other);
            }
        }
        Ok(())
    }
}

/// Reads files, and of folders each file `*.toml`, in the order of their names.
///
/// # Errors
///
/// If a path cannot be read at all.
pub fn load(paths: &[PathBuf]) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    for path in paths {
        if !path.is_dir() {
            let text = fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
            loaded.add(path, &text);
            continue;
        }
        let entries = fs::read_dir(path).map_err(|error| Error::io("read", path, &error))?;
        let mut files: Vec<PathBuf> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|file| file.extension().is_some_and(|name| name == "toml"))
            .collect();
        files.sort();
        for file in files {
            match fs::read_to_string(&file) {
                Ok(text) => loaded.add(&file, &text),
                Err(error) => loaded.errors.push(Error::io("read", &file, &error)),
            }
        }
    }
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;

    fn read(text: &str) -> Result<Wanted> {
        parse(Path::new("/etc/ddup/a.toml"), text)
    }

    #[test]
    fn a_file_with_everything() {
        let wanted = read(
            "# comment\nstore = \"/dev/vdb\"\nnumber = 3\nread-only = true\ncache = \"1.5M\"\n\
             index = 4194304\n[knobs]\ngc_delay = 60\ndiscard = true\ncommit_interval = \"default\"\n\
             keep_erased = \"18446744073709551615\"\n",
        )
        .unwrap();
        assert_eq!(wanted.store, Path::new("/dev/vdb"));
        assert_eq!((wanted.number, wanted.read_only), (Some(3), true));
        assert_eq!((wanted.cache, wanted.index), (Some(3 << 19), Some(4 << 20)));
        let named: Vec<_> = wanted
            .knobs
            .iter()
            .map(|setting| (setting.knob.name(), setting.value))
            .collect();
        for setting in [
            ("gc_delay", 60),
            ("discard", 1),
            ("commit_interval", 1000),
            ("keep_erased", u64::MAX),
        ] {
            assert!(named.contains(&setting), "{setting:?}");
        }
        assert_eq!(named.len(), 4);
    }

    #[test]
    fn a_file_with_the_store_alone() {
        let wanted = read("store = '/srv/store'").unwrap();
        assert_eq!((wanted.number, wanted.read_only), (None, false));
        assert!(wanted.knobs.is_empty());
    }

    const ONE: &str = "187bec17-3b51-42c0-ba31-d5bbc7612166";
    const OTHER: &str = "be444099-a43f-4a6b-9ef4-4a0cd94b5587";

    #[test]
    fn a_store_of_a_set_is_listened_for_and_its_peers_are_known() {
        let wanted = read(&format!(
            "store = '/dev/vdb'\n[set]\nlisten = ['192.0.2.1:7789', '[2001:db8::1]:7789']\n\
             transport = 'plain'\n[[peer]]\nstore = '{ONE}'\naddress = '192.0.2.2:7789'\n\
             [[peer]]\nstore = '{OTHER}'\naddress = '192.0.2.3:7789'"
        ))
        .unwrap();
        let replication = wanted.replication.unwrap();
        assert_eq!(replication.listen.len(), 2);
        assert_eq!(replication.peers[0].store, parse_uuid(ONE).unwrap());
        assert_eq!(
            replication.peers[1].address,
            "192.0.2.3:7789".parse().unwrap()
        );
        assert_eq!(read("store = '/dev/vdb'").unwrap().replication, None);
        let alone = read("store = '/dev/vdb'\n[set]\ntransport = 'plain'").unwrap();
        assert!(alone.replication.unwrap().listen.is_empty());
    }

    #[test]
    fn a_wrong_way_to_replicate_is_told_with_line_and_key() {
        let peer = |store: &str, address: &str| {
            format!(
                "[set]\ntransport = 'plain'\n[[peer]]\nstore = '{store}'\naddress = '{address}'"
            )
        };
        let good = peer(ONE, "192.0.2.2:7789");
        for (text, words) in [
            (
                "[set]\nlisten = ['192.0.2.1:7789']".to_owned(),
                "a.toml:2: transport is missing",
            ),
            (
                "[set]\ntransport = 'tls'".to_owned(),
                "a.toml:3: transport: there is no transport `tls`",
            ),
            (
                "[set]\ntransport = 'plain'\nlisten = ['host:1']".to_owned(),
                "`host:1` is no address",
            ),
            (
                "[set]\ntransport = 'plain'\nlisten = ['192.0.2.1:0']".to_owned(),
                "is no address",
            ),
            (
                "[set]\ntransport = 'plain'\ncolour = 1".to_owned(),
                "unknown field `colour`",
            ),
            (
                good.replace("[set]\ntransport = 'plain'\n", ""),
                "set is missing",
            ),
            (
                format!(
                    "{good}\n{}",
                    good.trim_start_matches("[set]\ntransport = 'plain'\n")
                ),
                "is named twice",
            ),
            (
                peer("1234", "192.0.2.2:7789"),
                "a.toml:5: store: `1234` is no UUID",
            ),
            (peer(&format_uuid(&[0; 16]), "192.0.2.2:7789"), "is no UUID"),
            (
                peer(ONE, "192.0.2.2"),
                "a.toml:6: address: `192.0.2.2` is no address",
            ),
            (peer(ONE, "0.0.0.0:7789"), "0.0.0.0 is none"),
            (
                "[set]\ntransport = 'plain'\n[[peer]]\naddress = '192.0.2.2:7789'".to_owned(),
                "missing field `store`",
            ),
        ] {
            let error = read(&format!("store = '/dev/vdb'\n{text}")).unwrap_err();
            assert_eq!(error.exit, Exit::Usage);
            assert!(error.to_string().contains(words), "{text}\n{error}");
        }
    }

    #[test]
    fn the_example_holds_together_as_it_is_and_with_all_of_it() {
        let text = include_str!("../systemd/example.toml");
        assert!(read(text).is_ok());
        // Lines that are commented out have no space.
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => rest,
            _ => line,
        });
        let wanted = read(&lines.collect::<Vec<_>>().join("\n")).unwrap();
        assert_eq!((wanted.number, wanted.knobs.len()), (Some(0), 1));
        assert_eq!(wanted.replication.unwrap().peers.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_key() {
        for (text, words) in [
            ("", "a.toml:1: missing field `store`"),
            ("store = 1", "a.toml:1: store: invalid type: integer"),
            (
                "store = 'vdb'",
                "a.toml:1: store: `vdb` is no absolute path",
            ),
            (
                "\nstore = '/dev/vdb'\ncolour = 1",
                "a.toml:3: unknown field `colour`, expected",
            ),
            (
                "store = '/dev/vdb'\nnumber = 65536",
                "a.toml:2: number: a number is 0 to 65535, not 65536",
            ),
            (
                "store = '/dev/vdb'\nnumber = -1",
                "a.toml:2: number: a number is 0 to 65535, not -1",
            ),
            (
                "store = '/dev/vdb'\ncache = 'lots'",
                "a.toml:2: cache: `lots` is no size",
            ),
            (
                "store = '/dev/vdb'\ncache = -4",
                "a.toml:2: cache: `-4` is no size",
            ),
            (
                "store = '/dev/vdb'\nread-only = 'yes'",
                "a.toml:2: read-only: invalid type",
            ),
            (
                "store = '/dev/vdb'\n[knobs]\ngc_delay = 1\ndiscard = 2",
                "a.toml:4: discard: discard takes 0 to 1, not `2`",
            ),
            (
                "store = '/dev/vdb'\nknobs = { gc_delay = 1, commit_interval = 0 }",
                "a.toml:2: commit_interval: commit_interval takes 1 to",
            ),
            (
                "store = '/dev/vdb'\n[knobs]\ncolour = 2",
                "a.toml:3: colour: there is no knob `colour`",
            ),
            (
                "store = '/dev/vdb'\n[knobs]\ngc_delay = 1.5",
                "a.toml:3: gc_delay: invalid type: floating point",
            ),
            (
                "store = '/dev/vdb'\nstore = '/dev/vdc'",
                "a.toml:2: duplicate key",
            ),
            ("store = '/dev/vdb", "a.toml:1: store: "),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.exit, Exit::Usage);
            let error = error.to_string();
            assert!(error.contains(words), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn files_that_contradict_each_other_are_named() {
        let mut loaded = Loaded::default();
        loaded.add(Path::new("a"), "store = '/dev/vda'\nnumber = 1");
        loaded.add(Path::new("b"), "store = '/dev/vda'");
        loaded.add(Path::new("c"), "store = '/dev/vdc'\nnumber = 1");
        loaded.add(Path::new("d"), "store = '/dev/vdd'\nnumber = 2");
        let errors: Vec<_> = loaded.errors.iter().map(Error::to_string).collect();
        assert_eq!(errors, ["b: store is that of a", "c: number is that of a"]);
        assert_eq!(loaded.wanted.len(), 2);
    }

    #[test]
    fn a_folder_is_read_in_order_and_bad_files_do_not_hide_good_ones() {
        let name = format!("ddup-config-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in [
            ("b.toml", "store = '/dev/vdb'"),
            ("a.toml", "store = '/dev/vda'"),
            ("c.toml", "store ="),
            ("d.toml~", "store ="),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        let loaded = load(std::slice::from_ref(&folder)).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let stores: Vec<_> = loaded.wanted.iter().map(|w| w.store.as_path()).collect();
        assert_eq!(stores, [Path::new("/dev/vda"), Path::new("/dev/vdb")]);
        assert_eq!(loaded.errors.len(), 1);
        assert!(loaded.errors[0].to_string().contains("c.toml:1: "));
        assert!(load(&[folder])
            .unwrap_err()
            .to_string()
            .contains("ddup-config"));
    }

    #[test]
    fn no_text_makes_it_panic() {
        // Random pieces of the language, side by side.
        let pieces = [
            "store",
            "number",
            "knobs",
            "gc_delay",
            "=",
            "[",
            "]",
            "{",
            "}",
            "'/dev/vdb'",
            "\"",
            "'",
            "\n",
            "-",
            "1",
            ".",
            "9223372036854775808",
            "true",
            "#",
            "é",
            "\\u0000",
            "[set]",
            "[[peer]]",
            "transport",
            "'plain'",
            ",",
            " ",
            "\u{1F980}",
        ];
        for round in 0..20_000_u64 {
            let mut random = RandomState::new().hash_one(round);
            let mut text = String::new();
            for _ in 0..random % 24 {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                text.push_str(pieces[(random >> 33) as usize % pieces.len()]);
            }
            if let Err(error) = read(&text) {
                assert!(
                    error.to_string().starts_with("/etc/ddup/a.toml:"),
                    "{text:?}"
                );
            }
        }
    }
}
