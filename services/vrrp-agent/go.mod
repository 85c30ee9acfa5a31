module github.com/twotier/twotier/services/vrrp-agent

go 1.26.0

require (
	github.com/twotier/twotier/proto v0.0.0
	github.com/twotier/twotier/services/internal v0.0.0
	github.com/vishvananda/netlink v1.3.1
	go.uber.org/zap v1.28.0
	golang.org/x/sys v0.49.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/vishvananda/netns v0.0.5 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
	google.golang.org/grpc v1.85.0 // indirect
)

replace (
	github.com/twotier/twotier/proto => ../../proto
	github.com/twotier/twotier/services/internal => ../internal
)
