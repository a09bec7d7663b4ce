#!/bin/sh
# Ends and removes everything that a folder of the harness registers.
#
#   reaper.sh clear DIR     now
#   reaper.sh guard DIR     when standard input ends, which is when the process that holds its other end is gone
#
# Each folder below DIR may hold a file `registry`, with one line per thing that outlives a folder:
#   pid PID START   a process and its process group; START tells it from a later process with the same number
#   cgroup NAME     NAME in every cgroup hierarchy
#   netns NAME      a network namespace
#   link NAME       a network link of the root namespace
set -u
action=$1
dir=$2

registered() {
    find "$dir" -name registry -type f -exec cat {} + 2>/dev/null | grep "^$1 " | cut -d' ' -f2-
}

# The start time of a process in clock ticks, empty when it is gone. The command name may hold spaces and brackets.
start_of() {
    sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20
}

state_of() {
    sed -n 's/^.*) //p' "/proc/$1/stat" 2>/dev/null | cut -c1
}

# A zombie has ended; its parent may still have to notice.
is_running() {
    case $(state_of "$1") in '' | Z | X) return 1 ;; esac
}

end_processes() {
    registered pid | while read -r pid start; do
        [ "$(start_of "$pid")" = "$start" ] && kill -s KILL -- "-$pid" 2>/dev/null
    done
    # Shims of containerd leave every process group, but their command line names the folder.
    for file in $(grep -laF "$dir/" /proc/[0-9]*/cmdline 2>/dev/null | xargs -r grep -laF containerd-shim 2>/dev/null); do
        pid=${file#/proc/}
        kill -s KILL "${pid%/cmdline}" 2>/dev/null
    done
    for name in $(registered cgroup); do
        find /sys/fs/cgroup/*/"$name" /sys/fs/cgroup/"$name" -name cgroup.procs -exec cat {} + 2>/dev/null |
            sort -u | while read -r pid; do kill -s KILL "$pid" 2>/dev/null; done
    done
    registered pid | while read -r pid start; do
        tries=0
        while [ $tries -lt 100 ] && [ "$(start_of "$pid")" = "$start" ] && is_running "$pid"; do
            sleep 0.02
            tries=$((tries + 1))
        done
    done
}

count_running() {
    registered pid | while read -r pid start; do
        [ "$(start_of "$pid")" = "$start" ] && is_running "$pid" && echo "$pid"
    done | wc -l
}

remove_network() {
    for name in $(registered netns); do
        ip netns pids "$name" 2>/dev/null | while read -r pid; do kill -s KILL "$pid" 2>/dev/null; done
        ip netns delete "$name" 2>/dev/null
    done
    for name in $(registered link); do
        ip link delete "$name" 2>/dev/null
    done
}

unmount() {
    # The newest mount first; a mount point is the fifth field.
    cut -d' ' -f5 /proc/self/mountinfo | grep -F "$dir/" | sort -r | while read -r point; do
        umount "$point" 2>/dev/null || umount -l "$point" 2>/dev/null
    done
}

remove_cgroups() {
    for name in $(registered cgroup); do
        tries=0
        # A cgroup is busy until the kernel has buried its last process.
        while [ $tries -lt 50 ]; do
            find /sys/fs/cgroup/*/"$name" /sys/fs/cgroup/"$name" -depth -type d -exec rmdir {} \; 2>/dev/null
            [ -z "$(find /sys/fs/cgroup/*/"$name" /sys/fs/cgroup/"$name" -type d 2>/dev/null)" ] && break
            sleep 0.02
            tries=$((tries + 1))
        done
    done
}

# containerd and kubelet keep a few names outside of their folders.
remove_names() {
    for file in $(find "$dir" -path '*/io.containerd.runtime.v2.task/*' -name address 2>/dev/null); do
        rm -f "$(sed 's|^unix://||' "$file")"
    done
    # The CNI library keeps a result per sandbox.
    for sandbox in $(find "$dir" -path '*/io.containerd.grpc.v1.cri/sandboxes/*' -prune 2>/dev/null); do
        rm -f /var/lib/cni/results/*"-${sandbox##*/}-"*
    done
    find /var/log/containers -lname "$dir/*" -delete 2>/dev/null
}

clear() {
    end_processes
    remove_names
    remove_network
    unmount
    remove_cgroups
    # The registry must not be lost while it is needed: the next run tries again.
    [ "$(count_running)" = 0 ] || exit 1
    rm -rf --one-file-system "$dir"
}

# Clusters that several tests share live until their process ends, too late for it to keep their logs itself.
keep_logs() {
    [ -e "$dir/failed" ] || return 0
    kept=${dir%/runs/*}/failed/${dir##*/}
    for logs in "$dir"/*/logs; do
        folder=${logs%/logs}
        [ -d "$logs" ] && mkdir -p "$kept" && mv "$logs" "$kept/${folder##*/}"
    done
}

if [ "$action" = guard ]; then
    # Signals that end the guarded process must not end the guard.
    trap '' INT TERM HUP
    cat >/dev/null
    keep_logs
fi
clear
