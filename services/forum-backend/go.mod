module github.com/twotier/twotier/services/forum-backend

go 1.26
