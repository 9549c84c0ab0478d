#!/bin/sh
# What metaproxy redirect apply brings about, for a node that has none of it. Exit code 2 of ip: it is there already.

ip -4 addr replace 169.254.170.254/32 dev eth0
ip -4 route replace unreachable 169.254.170.254/32 metric 9999
ip -4 rule add pref 1 iif lo to 169.254.169.254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -4 rule add pref 1 iif docker0 to 169.254.169.254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -4 rule add pref 1 from 10.1.0.0/16 to 169.254.169.254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -4 rule add pref 1 to 169.254.169.254 ipproto tcp dport 1-79 goto 4 || test $? -eq 2
ip -4 rule add pref 1 to 169.254.169.254 ipproto tcp dport 81-65534 goto 4 || test $? -eq 2
ip -4 rule add pref 2 to 169.254.169.254 ipproto tcp prohibit || test $? -eq 2
ip -4 rule add pref 3 to 169.254.170.254 lookup local || test $? -eq 2
ip -4 rule add pref 4 to 169.254.170.254 unreachable || test $? -eq 2
ip -6 addr replace fd00:a9fe:170::254/128 dev eth0 nodad
ip -6 route replace unreachable fd00:a9fe:170::254/128 metric 9999
ip -6 rule add pref 1 iif lo to fd00:ec2::254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -6 rule add pref 1 iif docker0 to fd00:ec2::254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -6 rule add pref 1 from fd01::/64 to fd00:ec2::254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -6 rule add pref 1 to fd00:ec2::254 ipproto tcp dport 1-79 goto 4 || test $? -eq 2
ip -6 rule add pref 1 to fd00:ec2::254 ipproto tcp dport 81-65534 goto 4 || test $? -eq 2
ip -6 rule add pref 1 to fd00:ec2::254 ipproto udp goto 4 || test $? -eq 2
ip -6 rule add pref 1 to fd00:ec2::254 ipproto ipv6-icmp goto 4 || test $? -eq 2
ip -6 rule add pref 2 to fd00:ec2::254 prohibit || test $? -eq 2
ip -6 rule add pref 3 to fd00:a9fe:170::254 lookup local || test $? -eq 2
ip -6 rule add pref 4 to fd00:a9fe:170::254 unreachable || test $? -eq 2
nft -f - <<'END'
add table ip metaproxy
delete table ip metaproxy
table ip metaproxy {
	chain nat {
		type nat hook prerouting priority -110; policy accept;
		iifname "docker0" return
		ip saddr 10.1.0.0/16 return
		iifname "cali*" ip daddr 169.254.169.254 tcp dport 80 dnat to 169.254.170.254:8181
		iifname "eni1" ip daddr 169.254.169.254 tcp dport 80 dnat to 169.254.170.254:8181
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		iifname "docker0" return
		ip saddr 10.1.0.0/16 return
		ip daddr 169.254.169.254 tcp dport 80 reject with tcp reset
	}
	chain raw {
		type filter hook prerouting priority -300; policy accept;
		iifname "docker0" return
		ip saddr 10.1.0.0/16 return
		ip daddr 169.254.169.254 tcp dport 80 fib saddr . iif oif missing drop
		ip daddr 169.254.170.254 fib saddr . iif oif missing drop
	}
	chain input {
		type filter hook input priority -10; policy accept;
		iif != "lo" ip daddr 169.254.170.254 ct original ip daddr != 169.254.169.254 drop
		iif != "lo" ip daddr 169.254.170.254 ct state untracked drop
	}
}
add table ip6 metaproxy
delete table ip6 metaproxy
table ip6 metaproxy {
	chain nat {
		type nat hook prerouting priority -110; policy accept;
		iifname "docker0" return
		ip6 saddr fd01::/64 return
		iifname "cali*" ip6 daddr fd00:ec2::254 tcp dport 80 dnat to [fd00:a9fe:170::254]:8181
		iifname "eni1" ip6 daddr fd00:ec2::254 tcp dport 80 dnat to [fd00:a9fe:170::254]:8181
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
		iifname "docker0" return
		ip6 saddr fd01::/64 return
		ip6 daddr fd00:ec2::254 tcp dport 80 reject with tcp reset
	}
	chain raw {
		type filter hook prerouting priority -300; policy accept;
		iifname "docker0" return
		ip6 saddr fd01::/64 return
		ip6 daddr fd00:ec2::254 tcp dport 80 fib saddr . iif oif missing drop
		ip6 daddr fd00:a9fe:170::254 fib saddr . iif oif missing drop
	}
	chain input {
		type filter hook input priority -10; policy accept;
		iif != "lo" ip6 daddr fd00:a9fe:170::254 ct original ip6 daddr != fd00:ec2::254 drop
		iif != "lo" ip6 daddr fd00:a9fe:170::254 ct state untracked drop
	}
}
END
conntrack -D -f ipv4 -p tcp --orig-dst 169.254.169.254 --dport 80 --reply-src 169.254.169.254 || true
conntrack -D -f ipv6 -p tcp --orig-dst fd00:ec2::254 --dport 80 --reply-src fd00:ec2::254 || true
