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
iptables-nft-restore --noflush --wait 5 <<'END'
*raw
:METAPROXY-RAW - [0:0]
-A METAPROXY-RAW -i docker0 -j RETURN
-A METAPROXY-RAW -s 10.1.0.0/16 -j RETURN
-A METAPROXY-RAW -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -m rpfilter --invert -j DROP
-A METAPROXY-RAW -d 169.254.170.254/32 -m rpfilter --invert -j DROP
-I PREROUTING 1 -j METAPROXY-RAW
COMMIT
*nat
:METAPROXY-NAT - [0:0]
-A METAPROXY-NAT -i docker0 -j RETURN
-A METAPROXY-NAT -s 10.1.0.0/16 -j RETURN
-A METAPROXY-NAT -d 169.254.169.254/32 -i cali+ -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.170.254:8181
-A METAPROXY-NAT -d 169.254.169.254/32 -i eni1 -p tcp -m tcp --dport 80 -j DNAT --to-destination 169.254.170.254:8181
-I PREROUTING 1 -j METAPROXY-NAT
COMMIT
*filter
:METAPROXY-INPUT - [0:0]
-A METAPROXY-INPUT -d 169.254.170.254/32 ! -i lo -m conntrack ! --ctorigdst 169.254.169.254 -j DROP
-A METAPROXY-INPUT -d 169.254.170.254/32 ! -i lo -m conntrack --ctstate UNTRACKED -j DROP
:METAPROXY-FORWARD - [0:0]
-A METAPROXY-FORWARD -i docker0 -j RETURN
-A METAPROXY-FORWARD -s 10.1.0.0/16 -j RETURN
-A METAPROXY-FORWARD -d 169.254.169.254/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset
-I INPUT 1 -j METAPROXY-INPUT
-I FORWARD 1 -j METAPROXY-FORWARD
COMMIT
END
ip6tables-nft-restore --noflush --wait 5 <<'END'
*raw
:METAPROXY-RAW - [0:0]
-A METAPROXY-RAW -i docker0 -j RETURN
-A METAPROXY-RAW -s fd01::/64 -j RETURN
-A METAPROXY-RAW -d fd00:ec2::254/128 -p tcp -m tcp --dport 80 -m rpfilter --invert -j DROP
-A METAPROXY-RAW -d fd00:a9fe:170::254/128 -m rpfilter --invert -j DROP
-I PREROUTING 1 -j METAPROXY-RAW
COMMIT
*nat
:METAPROXY-NAT - [0:0]
-A METAPROXY-NAT -i docker0 -j RETURN
-A METAPROXY-NAT -s fd01::/64 -j RETURN
-A METAPROXY-NAT -d fd00:ec2::254/128 -i cali+ -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:a9fe:170::254]:8181
-A METAPROXY-NAT -d fd00:ec2::254/128 -i eni1 -p tcp -m tcp --dport 80 -j DNAT --to-destination [fd00:a9fe:170::254]:8181
-I PREROUTING 1 -j METAPROXY-NAT
COMMIT
*filter
:METAPROXY-INPUT - [0:0]
-A METAPROXY-INPUT -d fd00:a9fe:170::254/128 ! -i lo -m conntrack ! --ctorigdst fd00:ec2::254 -j DROP
-A METAPROXY-INPUT -d fd00:a9fe:170::254/128 ! -i lo -m conntrack --ctstate UNTRACKED -j DROP
:METAPROXY-FORWARD - [0:0]
-A METAPROXY-FORWARD -i docker0 -j RETURN
-A METAPROXY-FORWARD -s fd01::/64 -j RETURN
-A METAPROXY-FORWARD -d fd00:ec2::254/128 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset
-I INPUT 1 -j METAPROXY-INPUT
-I FORWARD 1 -j METAPROXY-FORWARD
COMMIT
END
conntrack -D -f ipv4 -p tcp --orig-dst 169.254.169.254 --dport 80 --reply-src 169.254.169.254 || true
conntrack -D -f ipv6 -p tcp --orig-dst fd00:ec2::254 --dport 80 --reply-src fd00:ec2::254 || true
