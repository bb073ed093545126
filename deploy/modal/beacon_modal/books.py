"""What must outlive a container, in two `modal.Dict`s: ids, bills and leases in one, the use of containers in the other.

Entries of a Dict that nobody touches are lost after seven days, as are results of calls; nothing here is needed for longer but the
sums of use. Those are kept alive by `fold`. They never shrink: Beacon takes a sum that shrank for one that began anew.
"""

import dataclasses

from .meter import Use

# The same id within this time is the same job.
ID_TTL_S = 86_400

# A record is added to the sums this long after its container ended,
RESTS_S = 600
# or after it was last heard of. Containers write each half minute.
LOST_S = 3_600

# The sums are written anew at least this often.
TOUCH_S = 86_400

# An order for warm containers that lapsed is looked at this much longer, in case its end was crossed by another order.
LAPSED_S = 600


class Books:
    """Both Dicts. Times are Unix seconds."""

    def __init__(self, jobs, containers):
        self.jobs, self.containers = jobs, containers

    # ------------------------------------------------------------------ ids of jobs

    async def claim(self, job, now):
        """Takes an id for the caller, who then calls `submitted`. Gives what another one wrote: a call id, or None in between."""
        key = f"job:{job}"
        if await self.jobs.put.aio(key, {"at": now, "call": None}, skip_if_exists=True):
            return True, None
        entry = await self.jobs.get.aio(key) or {}
        if now - entry.get("at", now) > ID_TTL_S:
            await self.jobs.put.aio(key, {"at": now, "call": None})
            return True, None
        return False, entry.get("call")

    async def submitted(self, job, call, alias, now):
        """The id stands for this call, which Modal's edge may know by another id."""
        names = {f"call:{call}": call, **({f"call:{alias}": call} if alias else {})}
        await self.jobs.update.aio({f"job:{job}": {"at": now, "call": call}, **names})

    async def alias(self, alias, call):
        """Another id for a call."""
        await self.jobs.put.aio(f"call:{alias}", call)

    async def call(self, name):
        """The call that a caller means by this id, or None."""
        return await self.jobs.get.aio(f"call:{name}")

    # ------------------------------------------------------------------ runs that are stopped

    async def stop(self, call, now):
        """A caller wants this call to end."""
        await self.jobs.put.aio(f"stop:{call}", now, skip_if_exists=True)

    async def stopped(self, call):
        """When that was wanted, or None."""
        return await self.jobs.get.aio(f"stop:{call}")

    async def began(self, call):
        """The call runs in a container."""
        await self.jobs.put.aio(f"began:{call}", True)

    async def has_begun(self, call):
        """Whether it ever did."""
        return await self.jobs.get.aio(f"began:{call}", False)

    async def bill(self, call, bill):
        """What a call used that has no result to say it in."""
        await self.jobs.put.aio(f"bill:{call}", bill)

    async def billed(self, call):
        """That bill, or None."""
        return await self.jobs.get.aio(f"bill:{call}")

    # ------------------------------------------------------------------ containers kept warm

    async def lease(self, model, containers, until):
        """So many containers of the model are to be up until then."""
        await self.jobs.put.aio(f"warm:{model}", {"containers": containers, "until": until})

    async def lapsed(self, model, now):
        """True if containers may be up on an order that is over."""
        lease = await self.jobs.get.aio(f"warm:{model}")
        return lease is not None and lease["until"] < now <= lease["until"] + LAPSED_S

    # ------------------------------------------------------------------ the use of containers

    async def record(self, container, gpu, use, now, ended):
        """What a container has used so far."""
        await self.containers.put.aio(container, {"gpu": gpu, "use": use, "at": now, "ended": ended})

    async def uses(self):
        """The use of all containers so far, by GPU."""
        while True:
            before = await self._sums()
            records = [entry async for entry in self.containers.items.aio()]
            # A record that moved into the sums meanwhile would be missing here, or counted twice.
            if await self._sums() == before:
                break
        uses = {gpu: Use(**entry["use"]) for gpu, entry in before.items()}
        for container, record in records:
            gpu = record.get("gpu")
            if gpu is not None and container not in before.get(gpu, {}).get("folded", ()):
                uses.setdefault(gpu, Use()).add(record["use"])
        return uses

    async def fold(self, now):
        """Moves the records of containers that are gone into the sums. Only one may do so at a time."""
        sums = await self._sums()
        records = {key: record async for key, record in self.containers.items.aio() if "gpu" in record}
        for gpu in {record["gpu"] for record in records.values()} | set(sums):
            entry = sums.get(gpu) or {"use": dataclasses.asdict(Use()), "folded": [], "at": 0}
            for container in entry["folded"]:
                # Left by a pass that did not end.
                records.pop(container, None)
                await self.containers.pop.aio(container, None)
            over = [key for key, record in records.items() if record["gpu"] == gpu and is_over(record, now)]
            if over or now - entry["at"] > TOUCH_S:
                use = Use(**entry["use"])
                for container in over:
                    use.add(records[container]["use"])
                await self.containers.put.aio(f"sum:{gpu}", {"use": dataclasses.asdict(use), "folded": over, "at": now})
                for container in over:
                    await self.containers.pop.aio(container, None)

    async def _sums(self):
        found = {}
        for gpu in (await self.containers.get.aio("gpus") or {}).get("names", ()):
            entry = await self.containers.get.aio(f"sum:{gpu}")
            if entry is not None:
                found[gpu] = entry
        return found

    async def serves(self, gpus):
        """Remembers which GPUs there were, for as long as there are sums of them."""
        known = (await self.containers.get.aio("gpus") or {}).get("names", ())
        await self.containers.put.aio("gpus", {"names": sorted({*known, *gpus})})


def is_over(record, now):
    """True if nothing will be added to a record any more."""
    return now - record["at"] > (RESTS_S if record["ended"] else LOST_S)
