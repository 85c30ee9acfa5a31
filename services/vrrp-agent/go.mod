module github.com/twotier/twotier/services/vrrp-agent

go 1.26
