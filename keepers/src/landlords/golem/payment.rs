//! Money set aside: whether the daemon can pay at all, allocations, and that none runs dry or out while notes are owed.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{
    config::GolemPool,
    decimal::Decimal,
    facts::{self, Facts},
    site::Site,
    wire::{
        Account, Allocation, AllocationUpdate, Decorations, DriverStatus, Identity, NewAllocation, Version,
    },
    yagna::{Said, escaped},
};
use crate::landlord::CallError;

/// golem's own client refuses older ones.
const OLDEST: (u64, u64, u64) = (0, 15, 2);

/// Where allocations live.
const ALLOCATIONS: &str = "/payment-api/v1/allocations";

/// Checks the daemon: version, key, health, account, driver. Answers with our node id.
pub(super) async fn check(site: &Site) -> Result<String, CallError> {
    let version: Version = site.yagna.read("/version/get").await?;
    if parts(&version.current.version).is_some_and(|parts| parts < OLDEST) {
        let text = format!("golem: yagna {} is older than 0.15.2", version.current.version);
        return Err(CallError::Misconfigured(text));
    }
    let us: Identity = site.yagna.read("/me").await?;
    site.yagna.get("/healthcheck", Duration::ZERO).await?.good("GET /healthcheck")?;
    let platform = &site.config.platform;
    let accounts: Vec<Account> = site.yagna.read("/payment-api/v1/requestorAccounts").await?;
    if !accounts.iter().any(|account| account.platform == *platform && account.send) {
        return Err(CallError::Misconfigured(format!(
            "golem: no account can send on {platform}; run `yagna payment init --sender`"
        )));
    }
    let (driver, network) = driver_and_network(platform);
    let path =
        format!("/payment-api/v1/payments/status?driver={}&network={}", escaped(driver), escaped(network));
    let troubles: Vec<DriverStatus> = site.yagna.read(&path).await?;
    if let Some(trouble) = troubles.first() {
        let network = trouble.network.as_deref().unwrap_or("its network");
        return Err(CallError::Misconfigured(format!(
            "golem: the payment driver says {} on {network}",
            trouble.kind
        )));
    }
    Ok(us.identity)
}

fn parts(version: &str) -> Option<(u64, u64, u64)> {
    let mut parts = version.split(['.', '-', '+']).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?))
}

/// `erc20-polygon-glm`: driver, network, token.
fn driver_and_network(platform: &str) -> (&str, &str) {
    let mut parts = platform.split('-');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// What the dearest machine that a pool takes needs for a stretch.
fn needed(site: &Site, hour: Decimal, start: Decimal) -> Decimal {
    let hours = Decimal::whole(site.config.pace.allocate_for.as_secs().div_ceil(3_600).max(1));
    hour.checked_mul(hours).and_then(|sum| sum.checked_add(start)).unwrap_or(hour)
}

/// Sets money aside for an order, or finds what an earlier call for it set aside.
pub(super) async fn allocate(
    site: &Site,
    pool: &GolemPool,
    earlier: Option<&str>,
) -> Result<String, CallError> {
    if let Some(id) = earlier
        && let Said::Good(answer) =
            site.yagna.get(&format!("{ALLOCATIONS}/{}", escaped(id)), Duration::ZERO).await?
    {
        return Ok(answer.json::<Allocation>()?.allocation_id);
    }
    make(site, needed(site, pool.glm_per_hour_max, pool.glm_start_max)).await
}

async fn make(site: &Site, amount: Decimal) -> Result<String, CallError> {
    let timeout = facts::written(site.now() + site.config.pace.allocate_for);
    let new = NewAllocation {
        total_amount: &amount.to_string(),
        payment_platform: &site.config.platform,
        make_deposit: false,
        timeout: &timeout,
    };
    match site.yagna.post(ALLOCATIONS, &new, Duration::ZERO).await? {
        Said::Good(answer) => Ok(answer.json::<Allocation>()?.allocation_id),
        Said::Bad(trouble) => {
            let kind = trouble.kind.unwrap_or_default();
            let kind = kind.rsplit('/').next().unwrap_or_default().to_owned();
            let text = trouble.message.unwrap_or_default();
            Err(CallError::Misconfigured(format!("golem: {amount} GLM cannot be set aside: {kind} {text}")))
        }
        other => Err(other.unexpected("POST /allocations")),
    }
}

/// What yagna wants in every demand and counter-proposal that is paid out of the allocation.
pub(super) async fn decorations(site: &Site, allocation: &str) -> Result<Decorations, CallError> {
    let path = format!("/payment-api/v1/demandDecorations?allocationIds={}", escaped(allocation));
    site.yagna.read(&path).await
}

/// Gives back what is not needed. It lapses by itself otherwise.
pub(super) async fn release(site: &Site, allocation: &str) {
    match site.yagna.delete(&format!("{ALLOCATIONS}/{}", escaped(allocation))).await {
        Ok(Said::Good(_) | Said::NotFound | Said::Over(_)) => {}
        Ok(other) => {
            warn!(allocation, error = %other.unexpected("DELETE"), "an allocation is not released yet");
        }
        Err(error) => warn!(allocation, %error, "an allocation is not released yet"),
    }
}

/// Looks after the allocations of all agreements that are not settled.
pub(super) async fn keep_all(site: &Site) {
    let adopted: Vec<Arc<Facts>> =
        site.book().accounts().filter(|a| a.adopted).map(|a| Arc::clone(&a.facts)).collect();
    for facts in adopted {
        if let Err(error) = keep(site, &facts, false).await {
            warn!(agreement = %facts.agreement, %error, "its allocation cannot be looked after");
        }
    }
}

/// Extends an agreement's allocation well before it runs out, and makes another if it is gone. `dry`: a note was refused for
/// want of money.
pub(super) async fn keep(site: &Site, facts: &Facts, dry: bool) -> Result<(), CallError> {
    let Some(id) = site.book().get(&facts.agreement).map(|account| account.allocation.clone()) else {
        return Ok(());
    };
    let more = needed(site, facts.tariff.hour(), facts.tariff.start());
    let path = format!("{ALLOCATIONS}/{}", escaped(&id));
    let found = match site.yagna.get(&path, Duration::ZERO).await? {
        Said::Good(answer) => answer.json::<Allocation>()?,
        Said::NotFound | Said::Over(_) => return replace(site, facts, more, dry).await,
        other => return Err(other.unexpected("GET /allocations")),
    };
    let unread = |text: &str| CallError::Unclear(format!("the allocation's amount {text:?} does not read"));
    let read = |text: &str| text.parse::<Decimal>().map_err(|_| unread(text));
    let (total, remaining) = (read(&found.total_amount)?, read(&found.remaining_amount)?);
    let now = site.now();
    let until = found.timeout.as_deref().and_then(facts::time);
    // Half of the stretch is left to notice, and to try again.
    let soon = until.is_some_and(|until| until.since(now) < site.config.pace.allocate_for / 2);
    let low = dry || remaining < facts.tariff.hour();
    if !soon && !low {
        return Ok(());
    }
    let total = if low { total.checked_add(more).unwrap_or(total) } else { total };
    let timeout = facts::written(now + site.config.pace.allocate_for);
    let update = AllocationUpdate { total_amount: &total.to_string(), timeout: &timeout };
    match site.yagna.put(&path, &update).await? {
        Said::Good(_) => Ok(()),
        Said::NotFound | Said::Over(_) => replace(site, facts, more, dry).await,
        other => Err(other.unexpected("PUT /allocations")),
    }
}

async fn replace(site: &Site, facts: &Facts, amount: Decimal, owed: bool) -> Result<(), CallError> {
    let id = make(site, amount).await?;
    // The agreement may have been settled meanwhile, and its allocation released for that.
    let open = site.book().get(&facts.agreement).is_some_and(|account| account.adopted || owed);
    if !open {
        release(site, &id).await;
        return Ok(());
    }
    info!(agreement = %facts.agreement, allocation = %id, "its allocation was gone; notes are paid out of another");
    if let Some(account) = site.book().get_mut(&facts.agreement) {
        account.allocation = id;
    }
    Ok(())
}
