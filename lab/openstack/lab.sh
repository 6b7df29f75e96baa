# Names, ports and processes of the lab; read by up.sh and down.sh, not run by itself.
# Settings (environment):
#   LAB_DIR       everything that belongs to the lab while it runs; a path without spaces
#                 (default: openstack/lab in the cache folder)
#   LAB_CACHE     empty database schemas, kept so that the next start from nothing is quicker
#                 (default: openstack/schemas in the cache folder)
#   LAB_SITES     sites to run ("a b")
#   LAB_COMPUTES  hypervisors of each site (1)
#   LAB_TOKEN_TTL seconds that a token lives (3600)
#   LAB_SKIP_APT=1  fail rather than install packages
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
BASE=${XDG_CACHE_HOME:-$HOME/.cache}/windlass-ci/openstack
D=${LAB_DIR:-$BASE/lab}
CACHE=${LAB_CACHE:-$BASE/schemas}
SITES=${LAB_SITES:-a b}
COMPUTES=${LAB_COMPUTES:-1}
TOKEN_TTL=${LAB_TOKEN_TTL:-3600}
SECRET=lab-secret
DB_SOCK=$D/mysql.sock
DBS="keystone glance placement neutron cinder nova_api nova nova_cell0"
PY=/usr/bin/python3
RUN=("$PY" -P "$HERE/plugins/windlass_lab/run.py")
export PYTHONPATH=$HERE/plugins PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export XDG_CACHE_HOME=$D/cache LC_ALL=C.UTF-8 OS_CLIENT_CONFIG_FILE=$D/clouds.yaml
unset PYTHONHOME VIRTUAL_ENV http_proxy https_proxy HTTP_PROXY HTTPS_PROXY
PATH=/usr/sbin:/usr/bin:/sbin:/bin

say() { printf '%s [%3ds] %s\n' "$(date +%T)" "$SECONDS" "$*"; }
die() { say "FAILED: $*" >&2; exit 1; }

# choose_ports: sixteen free ports in a row, once for the life of the lab. They lie below what the
# kernel gives to outgoing connections, so that nobody takes one before its service is up.
choose_ports() {
    if [ ! -s "$D/port" ]; then
        "$PY" - > "$D/port.new" <<'PYTHON' || die "no sixteen free ports in a row on 127.0.0.1"
import random, socket, sys
bases = list(range(12000, 32000, 20))
random.shuffle(bases)
for base in bases:
    held = []
    try:
        for port in range(base, base + 16):
            held.append(socket.socket())
            held[-1].bind(('127.0.0.1', port))
        print(base)
        sys.exit(0)
    except OSError:
        pass
    finally:
        for one in held:
            one.close()
sys.exit(1)
PYTHON
        mv "$D/port.new" "$D/port"
    fi
    PORT=$(cat "$D/port")
    DB_PORT=$PORT AMQP_PORT=$((PORT + 1)) DIST_PORT=$((PORT + 2)) EPMD_PORT=$((PORT + 3))
}

# site_vars SITE: ports and paths of one site
site_vars() {
    local first
    SITE=$1 S=$D/site-$1
    case $1 in
        a) N=1 first=$((PORT + 4)) EXTERNAL=203.0.113 ;;
        b) N=2 first=$((PORT + 10)) EXTERNAL=198.51.100 ;;
        *) die "unknown site '$1' (there are two: a and b)" ;;
    esac
    export P_KEYSTONE=$first P_NOVA=$((first + 1)) P_CINDER=$((first + 2))
    export P_PLACEMENT=$((first + 3)) P_GLANCE=$((first + 4)) P_NEUTRON=$((first + 5)) EXTERNAL
    AUTH=http://127.0.0.1:$P_KEYSTONE
    VHOST=site-$1 REGION=Region-${1^^}
}

# alive PIDFILE: is the process that was started (same start time) still there?
alive() {
    [ -s "$1" ] || return 1
    local pid born
    read -r pid born < "$1"
    [ -n "$born" ] && [ "$(born "$pid")" = "$born" ]
}
born() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# daemon NAME LOG PIDFILE command...   start unless it runs already
daemon() {
    local name=$1 log=$2 pidfile=$3; shift 3
    if alive "$pidfile"; then return 0; fi
    setsid "$@" >>"$log" 2>&1 </dev/null &
    local pid=$!
    echo "$pid $(born $pid)" > "$pidfile"
    disown "$pid" 2>/dev/null || true
}

# wait_http URL SECONDS NAME PIDFILE LOG
wait_http() {
    local end=$((SECONDS + $2))
    until curl -s -o /dev/null --max-time 5 "$1"; do
        alive "$4" || { tail -20 "$5" >&2; die "$3 died, see $5"; }
        [ $SECONDS -lt $end ] || { tail -20 "$5" >&2; die "$3 did not answer on $1"; }
        sleep 0.5
    done
}

sql() { mariadb --no-defaults -S "$DB_SOCK" -u root "$@"; }
