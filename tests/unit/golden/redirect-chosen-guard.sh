#!/bin/sh
# Nothing forwarded reaches the metadata service.
ip -4 rule add pref 1 iif lo to 169.254.169.254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -4 rule add pref 1 iif docker0 to 169.254.169.254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -4 rule add pref 1 from 10.1.0.0/16 to 169.254.169.254 ipproto tcp dport 80 lookup main || test $? -eq 2
ip -4 rule add pref 1 to 169.254.169.254 ipproto tcp dport 1-79 goto 4 || test $? -eq 2
ip -4 rule add pref 1 to 169.254.169.254 ipproto tcp dport 81-65534 goto 4 || test $? -eq 2
ip -4 rule add pref 2 to 169.254.169.254 ipproto tcp prohibit || test $? -eq 2
ip -4 rule add pref 3 to 169.254.170.254 lookup local || test $? -eq 2
ip -4 rule add pref 4 to 169.254.170.254 unreachable || test $? -eq 2
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
