//! Promise: jobs whose prompts begin alike find their beginning cached, more often than by chance.

use serde_json::Value;
use tests::process;

/// The bench runs the same jobs both ways, on simulated servers with a prefix cache. Without affinity a machine meets every beginning.
#[test]
fn fewer_prompt_tokens_are_computed_with_affinity_than_without() {
    let output = process::run(&["bench", "--affinity", "3", "--simulated", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let pairs = found["by_slots"].as_array().unwrap();
    assert_eq!(pairs.len(), 2);
    for pair in pairs {
        let number =
            |way: &str, what: &str| pair[way][what].as_u64().unwrap_or_else(|| panic!("{what}: {pair}"));
        let computed = |way: &str| number(way, "prompt_tokens") - number(way, "cached_tokens");
        assert_eq!(number("with", "prompt_tokens"), number("without", "prompt_tokens"));
        assert!(computed("with") * 5 < computed("without") * 4, "{pair}");
    }
}
