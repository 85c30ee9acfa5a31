package exchange

import (
	"github.com/twotier/twotier/services/l7-router/internal/http1"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// beyond returns the status for a request that goes beyond a limit, 0 when it does not. The bytes of chunks are counted as
// they come: it tells the body how many it may have.
func (r *Request) beyond(l *spec.Limits, h *http1.Head) int {
	switch {
	case l.TargetBytes > 0 && len(h.Target()) > l.TargetBytes:
		return 414
	case l.HeadBytes > 0 && h.Len() > l.HeadBytes, l.Fields > 0 && h.Fields() > l.Fields:
		return 431
	case l.BodyBytes == 0:
		return 0
	case r.Body.Framing == http1.Length && r.Body.Length > l.BodyBytes:
		return 413
	case r.Body.Framing == http1.Chunked:
		r.Body.Length = l.BodyBytes
	}
	return 0
}
