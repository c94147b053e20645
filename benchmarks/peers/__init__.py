"""The programs of peers, set up as their documentation says; never imported beside ours."""
