#!/bin/bash
# Stops what up.sh started, and nothing else: processes by number and start time.
#   down.sh          stop, and remove the lab; packages and schemas stay
#   down.sh --keep   stop only: the next up.sh finds everything again
#   down.sh --all    remove the schemas too
set -u
. "$(dirname "$0")/lab.sh"
MODE=${1:-}
case $MODE in ''|--keep|--all) ;; *) echo "usage: down.sh [--keep|--all]" >&2; exit 2 ;; esac

if [ -d "$D" ]; then
    exec 9>"$D/.lock"; flock -w 60 9 || die "another up.sh or down.sh is running"
    # all members of the session of one daemon (each was started with setsid)
    members() { ps -o pid= -s "$1" 2>/dev/null; }
    stop_all() {   # stop_all SECONDS pidfile...
        local wait=$1 f pid b left end; shift
        local sessions=()
        for f in "$@"; do
            [ -e "$f" ] || continue
            if alive "$f"; then
                read -r pid b < "$f"
                sessions+=("$pid"); kill -TERM "$pid" 2>/dev/null
            fi
        done
        end=$((SECONDS + wait))
        while :; do
            left=()
            for pid in ${sessions[@]+"${sessions[@]}"}; do
                [ -z "$(members "$pid")" ] || left+=("$pid")
            done
            [ ${#left[@]} -gt 0 ] || break
            if [ $SECONDS -ge $end ]; then
                for pid in "${left[@]}"; do kill -KILL $(members "$pid") 2>/dev/null; done
                break
            fi
            sleep 0.3
        done
        rm -f "$@"
    }
    rm -f "$D/lab.json"
    say "stopping the services"
    stop_all 15 "$D"/site-*/run/*.pid
    say "stopping the broker and the database"
    stop_all 30 "$D"/run/rabbit.pid "$D"/run/mariadb.pid
    stop_all 5 "$D"/run/epmd.pid
    if [ "$MODE" != --keep ]; then
        # Only what up.sh has made.
        if [ -s "$D/port" ] && [ -d "$D/run" ]; then rm -rf "$D"; fi
    fi
fi
[ "$MODE" != --all ] || rm -f "$CACHE"/schema-*
[ "$MODE" != --all ] || rmdir "$CACHE" 2>/dev/null
say "stopped"
exit 0
