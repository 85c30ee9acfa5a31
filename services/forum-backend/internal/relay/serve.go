package relay

import (
	"crypto/hmac"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// maxNonces bounds the nonces that are remembered; they are forgotten when their time is over.
const maxNonces = 100_000

// uploadTime is how long an upload from another server may take.
const uploadTime = 10 * time.Minute

// Handler is what the upload origin answers the other servers, below Prefix. Everybody else is told that there is nothing.
type Handler struct {
	disk  Disk
	key   []byte
	limit int64
	log   *zap.Logger

	mu     sync.Mutex
	nonces map[string]time.Time // seen, and until when to remember
}

// NewHandler makes the origin's door for files of at most limit bytes.
func NewHandler(disk Disk, key []byte, limit int64, log *zap.Logger) *Handler {
	return &Handler{disk: disk, key: key, limit: limit, log: log.Named("relay"), nonces: map[string]time.Time{}}
}

var errBody = errors.New("the upload is not what was sent")

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	nonce, ok := h.admit(r, time.Now())
	if !ok {
		http.NotFound(w, r)
		return
	}
	name, named := strings.CutPrefix(r.URL.Path, Prefix+"/")
	switch {
	case r.Method == http.MethodPost && !named:
		h.save(w, r, nonce)
	case r.Method == http.MethodGet && !named:
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodGet:
		h.read(w, name)
	case r.Method == http.MethodDelete && named:
		if err := h.disk.Remove(name); err != nil {
			h.fail(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

// admit reports whether a server of this site sent the request, just now and for the first time.
func (h *Handler) admit(r *http.Request, now time.Time) (nonce string, ok bool) {
	parts := strings.Split(r.Header.Get(headerAuth), " ")
	if len(parts) != 4 || parts[0] != scheme {
		return "", false
	}
	if !hmac.Equal([]byte(parts[3]), []byte(requestMAC(h.key, r.Method, r.URL.EscapedPath(), parts[1], parts[2]))) {
		return "", false
	}
	seconds, err := strconv.ParseInt(parts[1], 10, 64)
	if age := now.Sub(time.Unix(seconds, 0)); err != nil || age < -maxSkew || age > maxSkew {
		h.log.Warn("request from a server whose clock differs too much", zap.Duration("skew", age))
		return "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, seen := h.nonces[parts[2]]; seen {
		return "", false
	}
	if len(h.nonces) >= maxNonces {
		for n, until := range h.nonces {
			if now.After(until) {
				delete(h.nonces, n)
			}
		}
		if len(h.nonces) >= maxNonces {
			return "", false
		}
	}
	h.nonces[parts[2]] = now.Add(2 * maxSkew)
	return parts[2], true
}

func (h *Handler) save(w http.ResponseWriter, r *http.Request, nonce string) {
	control, end := http.NewResponseController(w), time.Now().Add(uploadTime)
	if err := errors.Join(control.SetReadDeadline(end), control.SetWriteDeadline(end.Add(answerTimeout))); err != nil {
		h.fail(w, err)
		return
	}
	file, err := h.disk.Save(r.Context(), r.Body, h.limit, func(f forum.File) error {
		if !hmac.Equal([]byte(r.Trailer.Get(trailerBody)), []byte(bodyMAC(h.key, nonce, f.SHA256[:]))) {
			return errBody
		}
		return nil
	})
	if err != nil {
		h.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer{file.Path, file.Size, hex.EncodeToString(file.SHA256[:]), file.Type}) // the asker notices
}

func (h *Handler) read(w http.ResponseWriter, name string) {
	file, err := h.disk.Open(name)
	if err != nil {
		h.fail(w, err)
		return
	}
	defer file.Close()
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(uploadTime)); err != nil {
		h.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", forum.OctetStream)
	if _, err := io.Copy(w, file); err != nil {
		panic(http.ErrAbortHandler) // the asker must not take a part for the whole
	}
}

func (h *Handler) fail(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, forum.ErrNotFound):
		code = http.StatusNotFound
	case errors.Is(err, forum.ErrTooLarge):
		code = http.StatusRequestEntityTooLarge
	default:
		h.log.Warn("request of another server not carried out", zap.Error(err))
	}
	w.Header().Set("Connection", "close") // the rest of a body is not read
	http.Error(w, fmt.Sprintf("%d", code), code)
}
