//! What a person sees first: where things are.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Config;
use crate::run_services::RunningHost;

/// The banner of a host that runs `services`.
pub(crate) fn banner(host: &RunningHost, config: &Config, services: &[&str], took: Duration) -> String {
    let base = base_url(host.addr);
    let mut roles = Vec::new();
    for (on, role) in [
        (config.roles.api, "api"),
        (config.roles.worker, "worker"),
        (config.roles.relay, "relay"),
    ] {
        if on {
            roles.push(role);
        }
    }
    let mut lines = vec![
        format!(
            "\n  {} {}: {} ({})\n",
            config.app_name(services),
            env!("CARGO_PKG_VERSION"),
            services.join(", "),
            roles.join(", ")
        ),
        format!("  API        {base}/"),
        format!("  Docs       {base}/docs"),
    ];
    if config.on("METRICS_ENABLED") {
        let base = host.ops_addr.map_or_else(|| base.clone(), base_url);
        lines.push(format!("  Metrics    {base}/metrics"));
    }
    lines.push(format!("  Health     {base}/health"));
    lines.extend(host.databases.iter().map(|database| format!("  Database   {database}")));
    let transports: Vec<&str> = host.transports.iter().map(|name| explain(name)).collect();
    lines.push(format!("  Transport  {}", transports.join(", ")));
    lines.push(format!("  Started in {} ms\n", took.as_millis()));
    lines.push(String::new());
    lines.join("\n")
}

fn explain(transport: &'static str) -> &'static str {
    match transport {
        "sql" => "sql: (queues in the database)",
        "memory" => "memory: (nothing survives this process)",
        other => other,
    }
}

/// An address that a browser on this machine can open.
fn base_url(addr: SocketAddr) -> String {
    if addr.ip().is_unspecified() {
        format!("http://localhost:{}", addr.port())
    } else {
        format!("http://{addr}")
    }
}
