//! YAML's merge keys, `<<: *defaults`: what a map does not say itself it takes from others.
//!
//! Decides: which value wins (the map's own, then the first of several). Everything keeps the line it is written on.

use super::super::node::{Content, Entry, Node};

/// The same document without merge keys.
///
/// # Errors
/// With the line of a merge key that stands for something else than maps.
pub(super) fn merged(node: Node) -> Result<Node, usize> {
    let Node { line, content } = node;
    let content = match content {
        Content::List(items) => Content::List(items.into_iter().map(merged).collect::<Result<_, _>>()?),
        Content::Map(entries) => Content::Map(map(entries)?),
        other @ (Content::Null | Content::Bool(_) | Content::Number(..) | Content::Text(_)) => other,
    };
    Ok(Node { line, content })
}

fn map(entries: Vec<Entry>) -> Result<Vec<Entry>, usize> {
    let (mut own, mut taken) = (vec![], vec![]);
    for Entry { key, line, node } in entries {
        let node = merged(node)?;
        if key == "<<" { taken.push((line, node)) } else { own.push(Entry { key, line, node }) }
    }
    let mut seen: std::collections::BTreeSet<String> = own.iter().map(|e| e.key.clone()).collect();
    for (line, node) in taken {
        let sources = match node.content {
            Content::List(items) => items,
            Content::Map(_) => vec![node],
            Content::Null | Content::Bool(_) | Content::Number(..) | Content::Text(_) => return Err(line),
        };
        for source in sources {
            let Content::Map(entries) = source.content else { return Err(line) };
            own.extend(entries.into_iter().filter(|e| seen.insert(e.key.clone())));
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::super::yaml, *};

    #[test]
    fn its_own_wins_then_the_first_and_lines_stay() {
        let text = "a: &a {x: 1, y: 1}\nb: &b\n  <<: *a\n  y: 2\n  z: 2\nc:\n  y: 3\n  <<: [*b, *a, {w: 4}]\n";
        let node = merged(yaml::read(text).unwrap().remove(0)).unwrap();
        assert_eq!(node.to_json()["b"], json!({"x": 1, "y": 2, "z": 2}));
        assert_eq!(node.to_json()["c"], json!({"x": 1, "y": 3, "z": 2, "w": 4}));
        assert_eq!(["c.x", "c.y", "c.z", "c.w"].map(|p| node.locate(p)), [1, 7, 5, 8]);
        let bad = yaml::read("a:\n  <<: 3\n").unwrap().remove(0);
        assert_eq!(merged(bad), Err(2));
        let bad = yaml::read("a:\n  b: 1\n  <<: [{c: 1}, 2]\n").unwrap().remove(0);
        assert_eq!(merged(bad), Err(3));
    }
}
