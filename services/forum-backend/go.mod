module github.com/twotier/twotier/services/forum-backend

go 1.26.0

require (
	github.com/go-sql-driver/mysql v1.10.1
	github.com/twotier/twotier/proto v0.0.0
	github.com/twotier/twotier/services/internal v0.0.0
	go.uber.org/zap v1.28.0
	golang.org/x/crypto v0.58.0
	golang.org/x/sync v0.24.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	filippo.io/edwards25519 v1.2.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	golang.org/x/net v0.61.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20261019180522-ce908d29299b // indirect
)

replace github.com/twotier/twotier/proto => ../../proto

replace github.com/twotier/twotier/services/internal => ../internal
