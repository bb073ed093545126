//! What is run inside a provider's machine. Pure.

use serde_json::{Value, json};

use super::wire::Network;

/// Our own address in the private network.
pub(super) const OUR_IP: &str = "192.168.0.1";
/// The machine's address there.
pub(super) const MACHINE_IP: &str = "192.168.0.2";
/// The network. Each machine has one of its own, so that addresses never clash.
pub(super) const NETWORK: &str = "192.168.0.0/24";

/// `deploy` and `start`.
pub(super) fn deploy(network: &Network, us: &str, provider: &str) -> Value {
    // `POST /net` may answer with the address in either form.
    let ip = network.ip.split('/').next().unwrap_or_default();
    json!([
        { "deploy": { "net": [{
            "id": network.id,
            "ip": ip,
            "mask": network.mask,
            "nodeIp": MACHINE_IP,
            "nodes": { OUR_IP: us, MACHINE_IP: provider },
        }] } },
        { "start": { "args": [] } },
    ])
}

/// `run` of a shell that starts the server in the background and returns: a batch that never ends would leave no way to run more.
pub(super) fn serve(command: &str, key: Option<&str>) -> Value {
    let export = key.map(|key| format!("export VLLM_API_KEY={}; ", quoted(key))).unwrap_or_default();
    let script = format!("{export}nohup /bin/sh -c {} >/tmp/server.log 2>&1 </dev/null &", quoted(command));
    json!([{ "run": {
        "entry_point": "/bin/sh",
        "args": ["-c", script],
        "capture": { "stdout": { "atEnd": { "format": "string" } }, "stderr": { "atEnd": { "format": "string" } } },
    } }])
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_survives_the_shell() {
        let batch = serve("vllm serve 'my model'", Some("k'1"));
        let script = batch[0]["run"]["args"][1].as_str().unwrap();
        assert_eq!(
            script,
            r"export VLLM_API_KEY='k'\''1'; nohup /bin/sh -c 'vllm serve '\''my model'\''' >/tmp/server.log 2>&1 </dev/null &"
        );
    }

    #[test]
    fn both_nodes_are_in_the_net() {
        let network = Network { id: "n1".into(), ip: "192.168.0.0/24".into(), mask: "255.255.255.0".into() };
        let batch = deploy(&network, "0xus", "0xthem");
        let net = &batch[0]["deploy"]["net"][0];
        assert_eq!(net["ip"], "192.168.0.0");
        assert_eq!(net["nodes"]["192.168.0.2"], "0xthem");
    }
}
