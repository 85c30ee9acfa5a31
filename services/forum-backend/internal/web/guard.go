package web

import (
	"net/http"
	"runtime/debug"

	"go.uber.org/zap"
)

// Guard puts around all pages what every answer needs: the name of the server, the headers that keep browsers from doing
// more than they are asked to, refusal of requests that another site made a browser send, and an answer when a handler
// panics.
func Guard(node string, log *zap.Logger, next http.Handler) http.Handler {
	log = log.Named("web")
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Refused: this request was sent by another site.", http.StatusForbidden)
	}))
	next = crossOrigin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Served-By", node)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		// Not no-referrer: with it browsers send "Origin: null" with our own forms, which looks like another site.
		h.Set("Referrer-Policy", "same-origin")
		defer func() {
			reason := recover()
			if reason == nil {
				return
			}
			if reason == http.ErrAbortHandler {
				panic(reason) // meant: net/http cuts the connection
			}
			log.Error("handler panicked", zap.Any("reason", reason), zap.String("path", r.URL.Path), zap.ByteString("stack", debug.Stack()))
			http.Error(w, "Something went wrong.", http.StatusInternalServerError)
		}()
		next.ServeHTTP(w, r)
	})
}
