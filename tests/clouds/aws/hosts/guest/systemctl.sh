#!/bin/sh
# systemctl of a simulated host: switches off, ends units that systemd-run made, and agrees with all else.
force=
for word in "$@"; do
  case $word in -f | --force) force=-f ;; esac
done
for word in "$@"; do
  case $word in
    poweroff | halt) exec poweroff $force ;;
    reboot) exec reboot $force ;;
    stop) stopping=1 ;;
    -*) ;;
    *) if [ -n "${stopping:-}" ]; then
      unit=${word%.timer} && unit=${unit%.service}
      [ ! -e "/run/guest/units/$unit" ] || kill -- "-$(cat "/run/guest/units/$unit")" 2>/dev/null
      rm -f "/run/guest/units/$unit"
    fi ;;
  esac
done
exit 0
