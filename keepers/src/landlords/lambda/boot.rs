//! What a Lambda machine does at its first boot: it starts the server, with the key of this machine alone.

use std::fmt::Write as _;

use super::config::LambdaPool;
use crate::landlord::Order;

/// A cloud-init document. It waits for the GPU, since a container that starts before the driver never sees it. Models and compiled
/// kernels are kept in a volume, whoever the image runs as: the hub's client and vLLM both look beneath `XDG_CACHE_HOME`.
pub(super) fn user_data(pool: &LambdaPool, order: &Order) -> String {
    let mut env = String::new();
    let key = order.server_key.as_ref().map(|key| ("VLLM_API_KEY", key.expose()));
    let given = pool.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in key.into_iter().chain(given) {
        // Writing to a string cannot fail.
        let _ = writeln!(env, "    {name}={value}");
    }
    let (image, port) = (quoted(&pool.image), pool.port);
    let mut args = String::new();
    for arg in &pool.args {
        let _ = write!(args, " {}", quoted(arg));
    }
    format!(
        "#cloud-config\n\
         # Beacon's order {machine} for pool {pool}.\n\
         write_files:\n\
         - path: /etc/beacon.env\n\
         \x20 permissions: \"0600\"\n\
         \x20 content: |\n\
         \x20   BEACON_MACHINE={machine}\n\
         \x20   XDG_CACHE_HOME=/models\n\
         {env}\
         - path: /usr/local/bin/beacon-serve\n\
         \x20 permissions: \"0755\"\n\
         \x20 content: |\n\
         \x20   #!/bin/sh\n\
         \x20   until nvidia-smi -L; do sleep 2; done\n\
         \x20   exec docker run --rm --name beacon --gpus all --env-file /etc/beacon.env \
         -p {port}:{port} -v beacon-models:/models {image}{args}\n\
         - path: /etc/systemd/system/beacon.service\n\
         \x20 content: |\n\
         \x20   [Unit]\n\
         \x20   After=docker.service network-online.target\n\
         \x20   [Service]\n\
         \x20   ExecStart=/usr/local/bin/beacon-serve\n\
         \x20   Restart=always\n\
         \x20   RestartSec=5\n\
         \x20   [Install]\n\
         \x20   WantedBy=multi-user.target\n\
         runcmd:\n\
         - [systemctl, enable, --now, beacon.service]\n",
        machine = order.machine,
        pool = order.pool,
    )
}

/// A word of a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use schemas::{Micros, UsdNanos};

    use super::*;
    use crate::{landlord::Notes, secret::Secret};

    fn pool() -> LambdaPool {
        LambdaPool {
            sku: "gpu_1x_a10".into(),
            places: Vec::new(),
            image_family: None,
            image: "vllm/vllm-openai@sha256:0".into(),
            args: ["--model", "it's; rm -rf /"].map(String::from).to_vec(),
            env: [("HF_HOME".to_owned(), "/models".to_owned())].into(),
            port: 8000,
            start_within: None,
        }
    }

    fn order(key: &str) -> Order {
        Order {
            machine: "0192f3a4".parse().unwrap(),
            pool: "lambda@us-east".parse().unwrap(),
            sku: "gpu_1x_a10".into(),
            place: "us-east-1".into(),
            server_key: Some(Secret::new(key)),
            ordered_at: Micros::new(7),
            usd_per_hour_max: UsdNanos::ZERO,
            notes: Notes::new(),
        }
    }

    /// The kit shows a person what a machine will do, so it must be that.
    #[test]
    fn the_kits_user_data_is_what_is_sent_for_its_block() {
        let shown = include_str!("../../../../deploy/lambda/user-data.yaml");
        let words = ["--model", "Qwen/Qwen2.5-1.5B-Instruct", "--served-model-name", "qwen-2.5-1.5b"];
        let words = words.into_iter().chain(["--max-num-seqs", "16", "--enable-prompt-tokens-details"]);
        let pool = LambdaPool {
            image: "vllm/vllm-openai:v0.33.0".into(),
            args: words.map(String::from).collect(),
            env: std::collections::BTreeMap::new(),
            ..pool()
        };
        assert_eq!(user_data(&pool, &order("KEY")), shown);
    }

    #[test]
    fn the_server_starts_with_the_machines_own_key_and_no_word_can_break_out() {
        let (pool, order) = (pool(), order("derived"));
        let text = user_data(&pool, &order);
        assert!(text.starts_with("#cloud-config\n"));
        assert!(text.contains("\n    VLLM_API_KEY=derived\n    HF_HOME=/models\n- path:"), "{text}");
        assert!(text.contains(r"'--model' 'it'\''s; rm -rf /'"), "{text}");
        assert!(text.contains("-p 8000:8000"));
        assert!(
            text.contains("\n    XDG_CACHE_HOME=/models\n") && text.contains(" -v beacon-models:/models "),
            "{text}"
        );
    }
}
