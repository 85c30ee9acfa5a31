module github.com/twotier/twotier/services/file-sync

go 1.26.0

require (
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
)

replace github.com/twotier/twotier/proto => ../../proto

replace github.com/twotier/twotier/services/internal => ../internal
