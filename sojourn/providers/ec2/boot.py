"""What a machine does first: a shell script, the same bytes for the same plan.

Its first act is the machine's own timer, before anything is downloaded; its last one, however
it comes to it, is to switch the machine off, which ends it for good (the request says
`InstanceInitiatedShutdownBehavior=terminate`). It holds no key, no signature and no secret.
"""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from sojourn.agent.pack import SOURCES, Archive
from sojourn.errors import SpecError
from sojourn.renting import Boot
from sojourn.store.mailbox import agent_key

LIMIT = 16 * 1024
BOOTSTRAP = SOURCES / "bootstrap.py"

_SCRIPT = """\
#!/bin/sh
# {lease}: a machine of Sojourn's. It ends itself at {end_at} at the latest.
export HOME=/root LANG=C.UTF-8 PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
end() {{
  echo "sojourn: switching off"
  poweroff
  sleep 20
  poweroff -f
}}
# The timer, before all else: by the clock, and by the time since boot should the clock be wrong.
left=$(({end} - $(date +%s)))
[ "$left" -gt 0 ] || left=0
[ "$left" -lt {life} ] || left={life}
if [ -d /run/systemd/system ]; then
  systemd-run --quiet --unit=sojourn-end --on-active="${{left}}s" --timer-property=AccuracySec=1s systemctl poweroff -f
fi
(
  trap '' HUP INT TERM
  up() {{ cut -d. -f1 /proc/uptime; }}
  last=$(($(up) + left))
  while [ "$(date +%s)" -lt {end} ] && [ "$(up)" -lt "$last" ]; do sleep 1; done
  end
) &
trap end EXIT
trap 'exit 1' HUP INT TERM
[ ! -d /opt/pytorch/bin ] || PATH="/opt/pytorch/bin:$PATH"  # where the Deep Learning images keep it
mkdir -p /opt/sojourn
cat > /opt/sojourn/bootstrap.py <<'SOJOURN_BOOTSTRAP'
{bootstrap}SOJOURN_BOOTSTRAP
python3 -I -S /opt/sojourn/bootstrap.py {told}
"""


def user_data(boot: Boot, archive: Archive, secrets: dict[str, Any] | None = None) -> str:
    """The script of every machine of this lease; `secrets` says where those that the run names are kept.

    Raises SpecError where a machine could not reach the store.
    """
    store = urlsplit(boot.store)
    if store.scheme != "s3":
        raise SpecError(
            f"store: {boot.store!r} cannot be reached from a rented machine",
            hint="leave it out for the bucket that `sojourn setup aws` makes, or name one: --store s3://BUCKET",
        )
    key = "/".join(part for part in (store.path.strip("/"), agent_key(boot.project, archive.name)) if part)
    told = {
        "agent": {"bucket": store.netloc, "region": boot.store_region, "key": key, "sha256": archive.sha256},
        "boot": {
            **boot.model_dump(mode="json", exclude={"variables"}),
            "metadata": "ec2",
            **({"secrets": secrets} if secrets else {}),
        },
    }
    end = int(boot.deadline_at + boot.grace_s)
    script = _SCRIPT.format(
        lease=boot.lease,
        end=end,
        end_at=datetime.fromtimestamp(end, UTC).isoformat(),
        life=int(boot.life_s),
        bootstrap=BOOTSTRAP.read_text(encoding="utf-8"),
        told=shlex.quote(json.dumps(told, sort_keys=True)),
    )
    if len(script.encode()) > LIMIT:
        raise SpecError(f"aws: the boot script is {len(script.encode()):,} bytes, and EC2 takes {LIMIT:,}")
    return script
