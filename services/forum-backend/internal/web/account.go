package web

import (
	"errors"
	"net/http"
	"strings"
	"unicode"

	"github.com/twotier/twotier/services/forum-backend/internal/forum"
)

func (s *Site) registerForm(v *visit) error {
	return s.render(v, http.StatusOK, "register", view{Heading: "Register"})
}

// register takes POST /register name, email, password, and logs the new user in.
func (s *Site) register(v *visit) error {
	if !s.form(v) {
		return nil
	}
	u := forum.User{Name: v.r.PostFormValue("name"), Email: v.r.PostFormValue("email")}
	password := v.r.PostFormValue("password")
	again := func(problems []forum.Problem) error {
		return s.render(v, http.StatusUnprocessableEntity, "register",
			view{Heading: "Register", Problems: problems, Form: map[string]string{"name": u.Name, "email": u.Email}})
	}
	if problems := forum.CheckUser(u.Name, u.Email, password, forum.MinPassword); problems != nil {
		return again(problems)
	}
	var err error
	if u.Password, err = s.Passwords.Hash(v.r.Context(), password); err != nil {
		return err
	}
	u.ID, err = s.Store.CreateUser(v.r.Context(), u)
	switch {
	case errors.Is(err, forum.ErrNameTaken):
		return again([]forum.Problem{{Field: "name", Text: "this name is taken"}})
	case errors.Is(err, forum.ErrEmailTaken):
		return again([]forum.Problem{{Field: "email", Text: "there is a user with this address already"}})
	case err != nil:
		return err
	}
	http.SetCookie(v.w, s.Sessions.Login(u, v.now))
	return v.to("/")
}

func (s *Site) loginForm(v *visit) error {
	return s.render(v, http.StatusOK, "login", view{Heading: "Log in", Form: map[string]string{"next": local(v.r.URL.Query().Get("next"))}})
}

// login takes POST /login name, password, next.
func (s *Site) login(v *visit) error {
	if !s.form(v) {
		return nil
	}
	name, next := v.r.PostFormValue("name"), local(v.r.PostFormValue("next"))
	u, err := s.Store.UserByName(v.r.Context(), name)
	if err != nil && !errors.Is(err, forum.ErrNotFound) {
		return err
	}
	// Without such a user the hash is empty, and the check takes as long.
	ok, err := s.Passwords.Check(v.r.Context(), v.r.PostFormValue("password"), u.Password)
	if err != nil {
		return err
	}
	if !ok {
		return s.render(v, http.StatusUnauthorized, "login", view{
			Heading: "Log in", Form: map[string]string{"name": name, "next": next},
			Problems: []forum.Problem{{Field: "name", Text: "the name or the password is wrong"}},
		})
	}
	http.SetCookie(v.w, s.Sessions.Login(u, v.now))
	return v.to(next)
}

// local answers a path on this site, "/" for anything else, so that a link to the login cannot lead away.
func local(next string) string {
	if !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.ContainsRune(next, '\\') || strings.ContainsFunc(next, unicode.IsControl) {
		return "/"
	}
	return next
}

// logout takes POST /logout, with everywhere=1 to make the user's sessions void on all devices.
func (s *Site) logout(v *visit) error {
	if !s.form(v) {
		return nil
	}
	if v.viewer != nil && v.r.PostFormValue("everywhere") == "1" {
		if err := s.Store.RevokeSessions(v.r.Context(), v.viewer.ID); err != nil {
			return err
		}
	}
	http.SetCookie(v.w, s.Sessions.Logout())
	return v.to("/")
}

func (s *Site) me(v *visit) error {
	if v.viewer == nil {
		return v.toLogin("/me")
	}
	return s.render(v, http.StatusOK, "me", view{Heading: "Your account"})
}
