//! As much of Rust's syntax as the checks of the house need: code without comments and literals, `use` trees, paths.

/// One name that a `use` brings in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// `pub use`, of whatever visibility.
    pub public: bool,
    /// The path as written: `crate`, `a`, `B`.
    pub path: Vec<String>,
    /// The name it has here.
    pub name: String,
}

/// The code of a source: comments are gone, and string and character literals are empty.
pub fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut code, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") {
            at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            at += find(&rest[2..], b"*/").map_or(rest.len(), |end| end + 4);
        } else if let Some(hashes) = raw_string(rest) {
            let mut end = vec![b'"'];
            end.resize(hashes + 1, b'#');
            let open = hashes + 2;
            at += find(&rest[open..], &end).map_or(rest.len(), |found| open + found + end.len());
            code.extend(b"\"\"");
        } else if rest[0] == b'"' {
            at += 1 + closing(&rest[1..], b'"');
            code.extend(b"\"\"");
        } else if rest[0] == b'\'' && is_char(rest) {
            at += 1 + closing(&rest[1..], b'\'');
            code.extend(b"' '");
        } else {
            code.push(rest[0]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// Bytes up to and with the closing quote; a backslash hides the byte after it.
fn closing(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// The number of hashes when a raw string begins here.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let after = rest.strip_prefix(b"r")?;
    let hashes = after.iter().take_while(|&&b| b == b'#').count();
    (after.get(hashes) == Some(&b'"')).then_some(hashes)
}

/// Whether a character begins here, and not a lifetime.
fn is_char(rest: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&rest[1..rest.len().min(12)]);
    let mut chars = text.chars();
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Code without its `#[cfg(test)]` items.
pub fn without_tests(code: &str) -> String {
    let mut left = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        left.push_str(&rest[..at]);
        rest = &rest[at..];
        let mut depth = 0;
        let end = rest.char_indices().find_map(|(index, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0 && (c == ';' || c == '}')).then_some(index + 1)
        });
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    left.push_str(rest);
    left
}

/// The `use` items of code, taken apart, and the code without them.
pub fn split_uses(code: &str) -> (Vec<Use>, String) {
    let (mut uses, mut left, mut rest) = (Vec::new(), String::new(), code);
    while let Some(at) = rest.find("use ") {
        let before = rest[..at].trim_end();
        let public =
            before.ends_with("pub") || before.rsplit_once("pub(").is_some_and(|(_, to)| to.ends_with(')'));
        let begins_an_item = public || before.is_empty() || before.ends_with([';', '}', ']', '{']);
        left.push_str(&rest[..at]);
        rest = &rest[at + "use ".len()..];
        if begins_an_item {
            let (tree, after) = rest.split_once(';').unwrap_or((rest, ""));
            expand(tree, &[], public, &mut uses);
            rest = after;
        }
    }
    left.push_str(rest);
    (uses, left)
}

/// Takes a tree such as `a::{self, B as C}` apart.
fn expand(tree: &str, prefix: &[String], public: bool, found: &mut Vec<Use>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias)));
        let mut path: Vec<String> = prefix.iter().cloned().chain(words(path)).collect();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(name) = alias.map(|alias| alias.trim().to_owned()).or_else(|| path.last().cloned()) {
            found.push(Use { public, path, name });
        }
        return;
    };
    let prefix: Vec<String> = prefix.iter().cloned().chain(words(&tree[..open])).collect();
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                if !inner[start..at].trim().is_empty() {
                    expand(&inner[start..at], &prefix, public, found);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn words(path: &str) -> impl Iterator<Item = String> {
    path.split("::").map(|word| word.trim().to_owned()).filter(|word| !word.is_empty())
}

/// Every path of two words or more.
pub fn paths(code: &str) -> Vec<Vec<String>> {
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let candidates =
        code.split(|c: char| !is_path(c)).filter(|text| text.contains("::") && !text.starts_with(':'));
    candidates.map(|text| words(text).collect::<Vec<_>>()).filter(|path| path.len() > 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a /* b */ \"c \\\" d\" 'e' '\\'' r#\"f \" g\"# <'h> // i\nb\"j\" ";
        assert_eq!(code_of(text), "a  \"\" ' ' ' ' \"\" <'h> \nb\"\" ");
    }

    #[test]
    fn a_tree_of_uses_is_taken_apart() {
        let code = "mod a;\npub(crate) use a::{self, b::{C as D, E}};\nuse x::y;\nfn f() { use z::w; g() }";
        let (uses, rest) = split_uses(code);
        let found: Vec<_> = uses.iter().map(|u| (u.public, u.path.join("::"), u.name.as_str())).collect();
        let expected = [
            (true, "a", "a"),
            (true, "a::b::C", "D"),
            (true, "a::b::E", "E"),
            (false, "x::y", "y"),
            (false, "z::w", "w"),
        ];
        assert_eq!(found, expected.map(|(public, path, name)| (public, path.to_owned(), name)));
        assert!(rest.contains("g()") && !rest.contains("use"), "{rest}");
    }

    #[test]
    fn items_of_tests_are_left_out() {
        let code = "a;\n#[cfg(test)]\nmod tests;\nb();\n#[cfg(test)]\nmod more { fn f() { {} } }\nc();";
        assert_eq!(without_tests(code).split_whitespace().collect::<Vec<_>>(), ["a;", "b();", "c();"]);
    }
}
