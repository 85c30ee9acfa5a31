package engine

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/certificate"
	"github.com/twotier/twotier/services/l7-router/internal/front"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// renewEvery is how often the files of certificates are looked at.
const renewEvery = 2 * time.Second

// protocols are those that a frontend offers over TLS (ALPN), the best first.
func protocols(f *spec.Frontend) []string {
	if f.HTTP2.Disabled {
		return []string{"http/1.1"}
	}
	return []string{"h2", "http/1.1"}
}

// renewed are the frontends whose certificate files have changed since they were read.
func (e *Engine) renewed() []string {
	e.mu.Lock()
	fronts := make(map[string]*front.Frontend, len(e.frontends))
	for name, f := range e.frontends {
		fronts[name] = f
	}
	e.mu.Unlock()
	var names []string
	for name, f := range fronts {
		if certs := f.Certificates(); certs != nil && f.Current().Spec.TLS.Wanted() && certs.Renewed() {
			names = append(names, name)
		}
	}
	return names
}

// readCertificates reads the files of a frontend again. What cannot be used changes nothing, but is tried again: an error
// is shown in the status until the files are mended.
func (e *Engine) readCertificates(name string) error {
	f := e.Frontend(name)
	if f == nil || f.Certificates() == nil {
		return fmt.Errorf("there is no frontend %s with certificates", name)
	}
	if err := f.Certificates().Read(); err != nil {
		return err
	}
	e.logCertificates(name, f.Certificates())
	return nil
}

func (e *Engine) logCertificates(name string, s *certificate.Set) {
	if left := time.Until(s.Expiry()); left <= 0 {
		e.log.Warn("a certificate has expired", zap.String("frontend", name), zap.Time("expiry", s.Expiry()))
		return
	}
	e.log.Info("certificates read", zap.String("frontend", name), zap.Time("expiry", s.Expiry()))
}
