"""What Beacon's app on Modal does, apart from Modal: `beacon_app.py` beside this package puts it into functions.

| module | decides |
|---|---|
| `settings` | what an operator may say, by environment variables at deploy time |
| `wire` | what a body means, and what an answer says. Pure |
| `meter` | whose a container's time is. Pure |
| `books` | what must outlive a container: ids, bills, leases, use |
| `server` | starting vLLM |
| `runner` | one container: a job in, a report and its bill out |
| `relay` | a stream, and stopping it |
| `front` | the routes |
"""
