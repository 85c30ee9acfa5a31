package web

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

func (s *Site) home(v *visit) error {
	boards, err := s.Store.Boards(v.r.Context())
	if err != nil {
		return err
	}
	newest, err := s.Store.NewestThreads(v.r.Context(), newestThreads)
	if err != nil {
		return err
	}
	return s.homeWith(v, http.StatusOK, boards, newest, nil, nil)
}

func (s *Site) homeWith(v *visit, code int, boards []forum.Board, newest []forum.Thread, problems []forum.Problem, form map[string]string) error {
	return s.render(v, code, "home", view{Problems: problems, Form: form, Content: struct {
		Boards []forum.Board
		Newest []forum.Thread
	}{boards, newest}})
}

// createBoard is for administrators. POST /boards name, description.
func (s *Site) createBoard(v *visit) error {
	if v.viewer == nil || !v.viewer.Admin {
		s.message(v, http.StatusForbidden, "Not allowed", "Only an administrator may add boards.")
		return nil
	}
	if !s.form(v) {
		return nil
	}
	name, description := v.r.PostFormValue("name"), v.r.PostFormValue("description")
	if problems := forum.CheckBoard(name, description); problems != nil {
		boards, err := s.Store.Boards(v.r.Context())
		if err != nil {
			return err
		}
		return s.homeWith(v, http.StatusUnprocessableEntity, boards, nil, problems, map[string]string{"name": name, "description": description})
	}
	id, err := s.Store.CreateBoard(v.r.Context(), name, description)
	if err != nil {
		return err
	}
	return v.to("/boards/" + strconv.FormatUint(uint64(id), 10))
}

func (s *Site) board(v *visit) error {
	b, err := s.boardOf(v)
	if err != nil {
		return err
	}
	page := forum.NewPage(v.page(), forum.ThreadsPerPage, b.Threads)
	threads, err := s.Store.Threads(v.r.Context(), b.ID, page)
	if err != nil {
		return err
	}
	return s.render(v, http.StatusOK, "board", view{Heading: b.Name, Content: struct {
		Board   forum.Board
		Threads []forum.Thread
		Page    forum.Page
	}{b, threads, page}})
}

func (s *Site) boardOf(v *visit) (forum.Board, error) {
	id, err := v.id()
	if err != nil {
		return forum.Board{}, err
	}
	return s.Store.Board(v.r.Context(), id)
}

func (s *Site) thread(v *visit) error {
	id, err := v.id()
	if err != nil {
		return err
	}
	return s.threadWith(v, http.StatusOK, id, v.page(), nil, nil)
}

// threadWith is one page of a thread with the form for a reply, filled in as it was.
func (s *Site) threadWith(v *visit, code int, id forum.ID, number int, problems []forum.Problem, form map[string]string) error {
	t, err := s.Store.Thread(v.r.Context(), id)
	if err != nil {
		return err
	}
	page := forum.NewPage(number, forum.PostsPerPage, t.Replies+1)
	posts, err := s.Store.Posts(v.r.Context(), id, page)
	if err != nil {
		return err
	}
	return s.render(v, code, "thread", view{Heading: t.Title, Problems: problems, Form: form, Content: struct {
		Thread forum.Thread
		Posts  []forum.Post
		Page   forum.Page
	}{t, posts, page}})
}

// attachment gives a file out; pictures that browsers show safely are shown, all else is only for saving.
func (s *Site) attachment(v *visit) error {
	id, err := v.id()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(v.r.Context(), pageTime)
	a, err := s.Store.Attachment(ctx, id)
	cancel()
	if err != nil {
		return err
	}
	if v.r.PathValue("filename") != a.Name {
		return forum.ErrNotFound
	}
	etag := `"` + strconv.FormatUint(uint64(a.ID), 36) + `"` // what an id names never changes
	h := v.w.Header()
	if v.r.Header.Get("If-None-Match") == etag {
		h.Set("ETag", etag)
		v.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	file, source, err := s.Files.Open(v.r.Context(), a.File)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := http.NewResponseController(v.w).SetWriteDeadline(v.now.Add(transferTime)); err != nil {
		return err
	}
	disposition := "attachment"
	if a.Image() {
		disposition = "inline"
	}
	h.Set("Content-Type", a.Type)
	h.Set("Content-Length", strconv.FormatInt(a.Size, 10))
	h.Set("Content-Disposition", mime.FormatMediaType(disposition, map[string]string{"filename": a.Name}))
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("Cache-Control", "public, max-age=86400")
	h.Set("ETag", etag)
	h.Set("X-Attachment-Source", source)
	if v.r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(v.w, file); err != nil {
		if errors.Is(err, forum.ErrTampered) {
			s.Log.Error("attachment is not what was uploaded", zap.Error(err))
		}
		panic(http.ErrAbortHandler) // the head has gone; the visitor must not take a part for the whole
	}
	return nil
}
