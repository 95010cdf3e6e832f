//! The group that may use the admin socket.

use rustix::fs::Gid;

use super::SocketError;

/// A group of this machine, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Group(u32);

impl Group {
    /// By name in `/etc/group`, or by number. Groups of a directory service go by number.
    pub(super) fn find(text: &str) -> Result<Self, SocketError> {
        let number = text.parse().ok().or_else(|| {
            let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
            number_of(text, &groups)
        });
        // chown(2) takes the highest number for "leave it as it is".
        let number = number.filter(|&number| number != u32::MAX);
        number.map(Self).ok_or_else(|| SocketError::Group(text.to_owned()))
    }

    pub(super) fn gid(self) -> Gid {
        Gid::from_raw(self.0)
    }

    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// The number of a group in the text of `/etc/group`: `name:password:number:members` (group(5)).
fn number_of(name: &str, groups: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        fields.nth(1).filter(|_| found)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_name_or_number() {
        let groups = "root:x:0:\nbroken\ncert-readers:x:1007:ann,bob\n";
        assert_eq!(number_of("cert-readers", groups), Some(1007));
        assert_eq!(number_of("cert", groups), None);
        assert_eq!(number_of("ann", groups), None);
        assert_eq!(number_of("broken", groups), None);
        assert_eq!(Group::find("1007").unwrap(), Group(1007));
    }

    #[test]
    fn an_unknown_or_impossible_group_is_named() {
        for text in ["no-such-group", "-1", "4294967295", "4294967296", ""] {
            let error = Group::find(text).unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
