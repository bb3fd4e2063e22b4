#!/usr/bin/env bash
# A real SLURM on this host: two nodes, fake GPUs, accounting, memory limits enforced by cgroups. Debian, root only.
#   usage: slurm.sh up|down     state below $SLURM_TEST (default /tmp/trueshift-slurm); "up" starts afresh
# A host that already belongs to a cluster is left alone.
set -euo pipefail

STATE=${SLURM_TEST:-/tmp/trueshift-slurm}
NODES=2 GPUS=4 CPUS=8
CONFIG=/etc/slurm
MARK="# written by trueshift tests/cluster/slurm.sh"
HOST=$(hostname -s)

say() { printf '[slurm] %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

wait_for() { # wait_for SECONDS WHAT COMMAND…
  local tries=$(($1 * 5)) what=$2
  shift 2
  for _ in $(seq "$tries"); do
    if timeout 5 "$@" >/dev/null 2>&1; then return 0; fi
    sleep .2
  done
  fail "$what did not start; see $STATE/log"
}

written_here() { head -n 1 "$1" 2>/dev/null | grep -qF "$MARK"; }

ours() { # is the process of a pid file still one of the daemons started here?
  local pid
  pid=$(cat "$1" 2>/dev/null) && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qE 'slurm|munged|mariadbd' && echo "$pid"
}

down() {
  local file pid
  for file in "$STATE"/slurmd-*.pid "$STATE"/{slurmctld,slurmdbd,mariadb,munged}.pid; do
    pid=$(ours "$file") || continue
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null && sleep .1 || break; done
    kill -9 "$pid" 2>/dev/null || true
  done
  rm -rf "$STATE"
  for file in $CONFIG/{slurm,slurmdbd,cgroup,gres}.conf; do
    if written_here "$file"; then rm "$file"; fi
  done
}

install_packages() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && command -v slurmdbd >/dev/null && command -v mariadbd >/dev/null && return
  say "installing SLURM from Debian's packages"
  export DEBIAN_FRONTEND=noninteractive
  local policy=/usr/sbin/policy-rc.d # keeps package scripts from starting daemons; one that exists is the machine's own
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap "rm -f $policy" EXIT
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends slurm-wlm munge slurmdbd mariadb-server >/dev/null
}

start_munge() {
  mkdir -p /run/munge
  chmod 755 /run/munge
  (umask 077; head -c 1024 /dev/urandom >"$STATE/munge.key")
  munged --force --key-file="$STATE/munge.key" --pid-file="$STATE/munged.pid" --log-file="$STATE/log/munged.log" \
    --seed-file="$STATE/munge.seed" </dev/null >/dev/null 2>&1
  munge -n | unmunge >/dev/null
}

start_accounting() {
  mariadb-install-db --user=root --datadir="$STATE/mysql" --auth-root-authentication-method=normal --skip-test-db \
    >"$STATE/log/mysql_install.log" 2>&1
  mariadbd --no-defaults --user=root --datadir="$STATE/mysql" --socket="$STATE/mysql.sock" --pid-file="$STATE/mariadb.pid" \
    --bind-address=127.0.0.1 --port=33061 --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900 \
    </dev/null >"$STATE/log/mariadb.log" 2>&1 &
  wait_for 60 mariadb mariadb-admin --no-defaults --socket="$STATE/mysql.sock" -uroot ping
  mariadb --no-defaults --socket="$STATE/mysql.sock" -uroot -e "create database slurm_acct_db;
    create user slurm@127.0.0.1 identified by 'x'; create user slurm@localhost identified by 'x';
    grant all on slurm_acct_db.* to slurm@127.0.0.1; grant all on slurm_acct_db.* to slurm@localhost;"
  (umask 077; cat >$CONFIG/slurmdbd.conf <<X
$MARK
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
LogFile=$STATE/log/slurmdbd.log
PidFile=$STATE/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=33061
StorageUser=slurm
StoragePass=x
StorageLoc=slurm_acct_db
X
  )
  slurmdbd </dev/null >"$STATE/log/slurmdbd.out" 2>&1
}

write_config() {
  local memory=$(($(awk '/MemTotal/{print $2}' /proc/meminfo) / 1024 / NODES - 512)) node gpu
  cat >$CONFIG/slurm.conf <<X
$MARK
ClusterName=trueshift
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=16817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
ReturnToService=2
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd-%n.pid
SlurmdSpoolDir=$STATE/spool/%n
StateSaveLocation=$STATE/state
SlurmctldLogFile=$STATE/log/slurmctld.log
SlurmdLogFile=$STATE/log/slurmd-%n.log
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MinJobAge=43200
KillWait=3
OverTimeLimit=0
InactiveLimit=0
DefMemPerCPU=256
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageTRES=gres/gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
X
  cat >$CONFIG/cgroup.conf <<X
$MARK
CgroupPlugin=autodetect
CgroupAutomount=yes
IgnoreSystemd=yes
ConstrainRAMSpace=yes
X
  echo "$MARK" >$CONFIG/gres.conf
  mkdir -p "$STATE/dev"
  for node in $(seq $NODES); do
    mkdir -p "$STATE/spool/n$node"
    echo "NodeName=n$node NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((16900 + node)) CPUs=$CPUS Boards=1 SocketsPerBoard=1" \
      "CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$memory Gres=gpu:fake:$GPUS State=UNKNOWN" >>$CONFIG/slurm.conf
    # File= names one device file per GPU: slurmd then hands out indices and sets CUDA_VISIBLE_DEVICES
    for gpu in $(seq 0 $((GPUS - 1))); do touch "$STATE/dev/gpu$gpu"; done
    echo "NodeName=n$node AutoDetect=off Name=gpu Type=fake File=$STATE/dev/gpu[0-$((GPUS - 1))]" >>$CONFIG/gres.conf
  done
  echo "PartitionName=main Nodes=n[1-$NODES] Default=YES MaxTime=INFINITE State=UP" >>$CONFIG/slurm.conf
}

all_idle() { [ "$(sinfo -h -N -t idle -o %N | sort -u | wc -l)" = $NODES ]; }

start_slurm() {
  wait_for 30 slurmdbd sacctmgr -n show cluster
  sacctmgr -i add cluster trueshift >/dev/null
  sacctmgr -i add account default cluster=trueshift >/dev/null
  sacctmgr -i add user root account=default cluster=trueshift >/dev/null
  slurmctld -c </dev/null >"$STATE/log/slurmctld.out" 2>&1
  wait_for 30 slurmctld bash -c "scontrol ping | grep -q 'is UP'"
  for node in $(seq $NODES); do slurmd -N "n$node" </dev/null >"$STATE/log/slurmd-n$node.out" 2>&1; done
  export -f all_idle
  export NODES
  wait_for 30 "the nodes" bash -c all_idle
}

case ${1:-} in
  up)
    [ "$(id -u)" = 0 ] || fail "starting daemons needs root"
    for file in slurm.conf slurmdbd.conf; do
      if [ -e "$CONFIG/$file" ] && ! written_here "$CONFIG/$file"; then
        fail "$CONFIG/$file exists: this host belongs to a cluster, use that one"
      fi
    done
    install_packages
    down
    mkdir -p "$STATE"/{spool,state,log,mysql} $CONFIG
    chmod 700 "$STATE"
    start_munge
    write_config
    start_accounting
    start_slurm
    sinfo -N -o '%N %T %c %m %G'
    ;;
  down) down ;;
  *) fail "usage: slurm.sh up|down" ;;
esac
