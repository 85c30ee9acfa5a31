package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

// Limits of a form, in bytes.
const (
	maxForm      = 64 << 10  // one without texts and files
	maxTextField = 128 << 10 // MaxBody characters of 4 bytes, escaped or not, and to spare
	maxTextForm  = 1 << 20   // everything besides the files
	maxFields    = 50        // of a form with files
	discardTime  = 5 * time.Second
)

// form reads a small form; false when it could not be read and the visitor has been told.
func (s *Site) form(v *visit) bool {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxForm)
	if err := v.r.ParseForm(); err != nil {
		s.badForm(v, err)
		return false
	}
	return true
}

func (s *Site) badForm(v *visit, err error) {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		s.message(v, http.StatusRequestEntityTooLarge, "Too much at once", fmt.Sprintf("The form is larger than %s.", Size(large.Limit)))
		return
	}
	s.message(v, http.StatusBadRequest, "The form could not be read", "Please go back and try again.")
}

func (s *Site) newThread(v *visit) error {
	b, err := s.boardOf(v)
	if err != nil {
		return err
	}
	if v.viewer == nil {
		return v.toLogin(v.r.URL.Path)
	}
	return s.newThreadWith(v, http.StatusOK, b, nil, nil)
}

func (s *Site) newThreadWith(v *visit, code int, b forum.Board, problems []forum.Problem, form map[string]string) error {
	return s.render(v, code, "new", view{Heading: "New thread in " + b.Name, Problems: problems, Form: form, Content: b})
}

// createThread takes POST /boards/{id}/threads title, body, file…
func (s *Site) createThread(v *visit) error {
	b, err := s.boardOf(v)
	if err != nil {
		return err
	}
	if v.viewer == nil {
		return v.toLogin(fmt.Sprintf("/boards/%d/new", b.ID))
	}
	sub, err := s.read(v)
	if err != nil {
		s.badForm(v, err)
		return nil
	}
	sub.problems = append(forum.CheckThread(sub.title, sub.body), sub.problems...)
	if len(sub.problems) > 0 {
		s.discard(sub.files)
		return s.newThreadWith(v, sub.code(), b, sub.problems, sub.form())
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), pageTime)
	defer cancel()
	id, err := s.Store.CreateThread(ctx, b.ID, v.viewer.ID, sub.title, sub.body, sub.files)
	if err != nil {
		return s.notKept(v, err, sub, func(code int, problems []forum.Problem) error {
			return s.newThreadWith(v, code, b, problems, sub.form())
		})
	}
	return v.to(fmt.Sprintf("/threads/%d", id))
}

// createReply takes POST /threads/{id}/replies body, file…
func (s *Site) createReply(v *visit) error {
	id, err := v.id()
	if err != nil {
		return err
	}
	if v.viewer == nil {
		return v.toLogin(fmt.Sprintf("/threads/%d", id))
	}
	// Before the files are taken in.
	if _, err := s.Store.Thread(v.r.Context(), id); err != nil {
		return err
	}
	sub, err := s.read(v)
	if err != nil {
		s.badForm(v, err)
		return nil
	}
	sub.problems = append(forum.CheckBody(sub.body), sub.problems...)
	if len(sub.problems) > 0 {
		s.discard(sub.files)
		return s.threadWith(v, sub.code(), id, forum.MaxPage, sub.problems, sub.form())
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), pageTime)
	defer cancel()
	number, err := s.Store.CreateReply(ctx, id, v.viewer.ID, sub.body, sub.files)
	if err != nil {
		return s.notKept(v, err, sub, func(code int, problems []forum.Problem) error {
			return s.render(v, code, "kept", view{Heading: "Your reply", Problems: problems, Form: sub.form(), Content: id})
		})
	}
	return v.to(fmt.Sprintf("/threads/%d?page=%d#post-%d", id, forum.PageOf(number, forum.PostsPerPage), number))
}

// notKept discards the files of a post that the database did not take. When that may be over soon, the form comes back
// with the text in it.
func (s *Site) notKept(v *visit, err error, sub *submission, again func(code int, problems []forum.Problem) error) error {
	// Whether a COMMIT whose answer was lost was done is not known; files that a post may have stay.
	if !errors.Is(err, forum.ErrUnavailable) && !errors.Is(err, context.Canceled) {
		s.discard(sub.files)
		return err
	}
	v.w.Header().Set("Retry-After", "5")
	return again(http.StatusServiceUnavailable, []forum.Problem{{Field: "body", Text: "the database does not answer at the moment; your text was not lost, please send it again soon"}})
}

// submission is a form with texts and files, as it came in.
type submission struct {
	title, body string
	files       []forum.Attachment // saved already
	problems    []forum.Problem    // with the files
	away        bool               // the upload server
}

func (s *submission) form() map[string]string {
	return map[string]string{"title": s.title, "body": s.body}
}

func (s *submission) code() int {
	if s.away {
		return http.StatusServiceUnavailable
	}
	return http.StatusUnprocessableEntity
}

// read takes a form in, multipart or not, and saves its files as they come. A file that cannot be saved is a problem of
// the submission, and the texts are read all the same; an error is a form that cannot be read.
func (s *Site) read(v *visit) (*submission, error) {
	control := http.NewResponseController(v.w)
	if err := errors.Join(control.SetReadDeadline(v.now.Add(transferTime)), control.SetWriteDeadline(v.now.Add(transferTime+pageTime))); err != nil {
		return nil, err
	}
	sub := &submission{}
	if kind, _, _ := mime.ParseMediaType(v.r.Header.Get("Content-Type")); kind != "multipart/form-data" {
		v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxTextForm)
		if err := v.r.ParseForm(); err != nil {
			return nil, err
		}
		sub.title, sub.body = strings.TrimSpace(v.r.PostForm.Get("title")), forum.CleanBody(v.r.PostForm.Get("body"))
		return sub, nil
	}
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, forum.MaxFiles*s.MaxUploadBytes+maxTextForm)
	parts, err := v.r.MultipartReader()
	if err != nil {
		return nil, err
	}
	for fields := 0; ; fields++ {
		part, err := parts.NextPart()
		if err == io.EOF { // not errors.Is: a form that broke off wraps io.EOF
			return sub, nil
		}
		if err == nil && fields >= maxFields {
			err = fmt.Errorf("more than %d fields", maxFields)
		}
		if err == nil {
			err = s.take(v, sub, part)
		}
		if err != nil {
			s.discard(sub.files)
			return nil, err
		}
	}
}

// take reads one part of a form.
func (s *Site) take(v *visit, sub *submission, part *multipart.Part) error {
	if part.FileName() == "" { // a field, or a place for a file in which none was put
		b, err := io.ReadAll(io.LimitReader(part, maxTextField+1))
		if err == nil && len(b) > maxTextField {
			err = fmt.Errorf("field %q is larger than %d bytes", part.FormName(), maxTextField)
		}
		switch part.FormName() {
		case "title":
			sub.title = strings.TrimSpace(string(b))
		case "body":
			sub.body = forum.CleanBody(string(b))
		}
		return err
	}
	if part.FormName() != "file" || sub.away {
		return nil
	}
	name := forum.CleanFileName(part.FileName())
	if len(sub.files) >= forum.MaxFiles {
		sub.problem(fmt.Sprintf("want at most %d files", forum.MaxFiles))
		return nil
	}
	from := &source{Reader: part}
	file, err := s.Files.Save(v.r.Context(), from, s.MaxUploadBytes)
	switch {
	case from.err != nil:
		return from.err
	case err == nil:
		sub.files = append(sub.files, forum.Attachment{Name: name, File: file})
	case errors.Is(err, forum.ErrTooLarge):
		sub.problem(fmt.Sprintf("%s is larger than %s", name, Size(s.MaxUploadBytes)))
	default: // the origin is away, or its disk is full or gone: the texts are worth keeping either way
		s.Log.Warn("upload refused", zap.Error(err))
		sub.away = true
		sub.problem("uploads are not possible at the moment: the server that keeps files does not answer or cannot write. Your text was not lost: send it without files, or again later")
	}
	return nil
}

// source is a file on its way in. It remembers whether it broke off, which is not the fault of whoever saves it.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && err != io.EOF { // not errors.Is: a form that broke off wraps io.EOF
		s.err = err
	}
	return n, err
}

func (s *submission) problem(text string) {
	s.problems = append(s.problems, forum.Problem{Field: "file", Text: text})
}

// discard takes away the files of a post that does not come to be.
func (s *Site) discard(files []forum.Attachment) {
	ctx, cancel := context.WithTimeout(context.Background(), discardTime)
	defer cancel()
	for _, f := range files {
		if err := s.Files.Remove(ctx, f.Path); err != nil {
			s.Log.Warn("file without a post stays", zap.String("path", f.Path), zap.Error(err))
		}
	}
}
